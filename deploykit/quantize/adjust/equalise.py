"""Cross-layer equalisation: channels get ranges that one scale for all of them can serve.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019),
section 4.1: a ReLU lets positive factors through, so that the range r1 of what makes a channel and
the range r2 of what takes it can be traded for each other. Both are sqrt(r1 r2) with (equation 11)

    s = sqrt(r1 / r2),    W1 / s,    b1 / s,    W2 s.

What is more than in the paper: values are not pairs but sets (`channels.py`), so that sums and
several readers take part; and data bounds the factors. A channel is never scaled up beyond the
largest channel of its value, since activations have one scale for all channels; and a clip (ReLU6)
stays where it is and what it does: channels that reach it keep their factor 1, and no other is
scaled so far that it would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.adjust.layers import channels_in, channels_out, outer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from deploykit.quantize.adjust.channels import Channels
    from deploykit.quantize.adjust.extremes import ChannelExtremes
    from deploykit.quantize.adjust.layers import Layer
    from deploykit.quantize.graph.values import Graph

_MOST_ROUNDS = 200
_CONVERGED = 1e-3
"""No factor moves by more in a round, as a share."""
_MOST = 1e4
"""Beyond it, and below its inverse, no channel is scaled: it is dead, or its reader is."""


@dataclass(slots=True, eq=False)
class _Weight:
    """The magnitudes of a layer's weight, and the factors that it has by now.

    Attributes:
        layer: whose.
        most: [groups, out / groups, in / groups]: over positions.
        over_out: [out], what the results are multiplied with.
        over_in: [in].
    """

    layer: Layer
    most: NDArray[np.float64]
    over_out: NDArray[np.float64]
    over_in: NDArray[np.float64]

    def ranges_out(self) -> NDArray[np.float64]:
        """[out]: the largest weight of each output channel."""
        return np.asarray(self._scaled().max(axis=2).reshape(-1))

    def ranges_in(self) -> NDArray[np.float64]:
        """[in]: the largest weight of each input channel."""
        return np.asarray(self._scaled().max(axis=1).reshape(-1))

    def _scaled(self) -> NDArray[np.float64]:
        return self.most * outer(self.layer.form, self.over_out, self.over_in)


def is_equalised(channels: Channels) -> bool:
    """Whether a set lies between layers, and nothing fixes it."""
    starts = any(one.starts for one in channels.vectors)
    return bool(not channels.fixed and not starts and channels.makers and channels.takers)


def factors_of(
    graph: Graph,
    sets: Sequence[Channels],
    extremes: Mapping[str, ChannelExtremes],
) -> list[tuple[Channels, NDArray[np.float64]]]:
    """The factors that equalise all sets, each with the layers on both sides of it.

    Args:
        graph: that the sets were found in; not changed.
        sets: those that `is_equalised` takes.
        extremes: of all their values, on data.

    Returns:
        Sets with factors: [channels], all 1 for those that cannot be scaled.
    """
    weights = {
        layer.weight: _weight(graph, layer) for one in sets for layer in (*one.makers, *one.takers)
    }
    bounds = [bounds_of(one, extremes) for one in sets]
    factors = [np.ones(one.size) for one in sets]
    for _ in range(_MOST_ROUNDS):
        moved = 0.0
        for one, bound, now in zip(sets, bounds, factors, strict=True):
            moved = max(moved, _step(one, weights, bound, now))
        if moved < _CONVERGED:
            break
    return list(zip(sets, factors, strict=True))


def bounds_of(
    channels: Channels, extremes: Mapping[str, ChannelExtremes]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the greatest factor of each channel; see the top of this file."""
    least, most = np.full(channels.size, 1 / _MOST), np.full(channels.size, _MOST)
    for name in channels.values:
        if name in channels.passing:
            continue
        magnitude = extremes[name].magnitude
        least = np.maximum(least, magnitude / max(magnitude.max(), np.finfo(float).tiny))
    for name, cap in channels.caps.items():
        high = extremes[name].high
        least = np.maximum(least, high / cap if cap > 0 else 1.0)
        reaches = high >= cap
        least[reaches] = most[reaches] = 1.0
    return least, most


def _weight(graph: Graph, layer: Layer) -> _Weight:
    most = np.abs(layer.form.split(graph.array(layer.weight))).max(axis=3).astype(np.float64)
    return _Weight(layer, most, np.ones(channels_out(layer.form)), np.ones(channels_in(layer.form)))


def _step(
    channels: Channels,
    weights: Mapping[str, _Weight],
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]],
    factors: NDArray[np.float64],
) -> float:
    """Equalise one set with its neighbours as they are; how far a factor moved, as a share."""
    makers = [weights[one.weight] for one in channels.makers]
    takers = [weights[one.weight] for one in channels.takers]
    made = np.maximum.reduce([one.ranges_out() for one in makers])
    taken = np.maximum.reduce([one.ranges_in() for one in takers])
    alive = (made > 0) & (taken > 0)
    step = np.sqrt(np.divide(made, taken, out=np.ones_like(made), where=alive))
    after = np.where(alive, np.clip(factors * step, *bounds), 1.0)
    change = after / factors
    for one in makers:
        one.over_out /= change
    for one in takers:
        one.over_in *= change
    factors[:] = after
    return float(np.abs(change - 1).max())
