"""The float graph made easier to quantize, before calibration: what it computes stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deploykit.quantize.adjust.absorb import absorb, absorbable
from deploykit.quantize.adjust.channels import channels_of
from deploykit.quantize.adjust.equalise import factors_of, is_equalised
from deploykit.quantize.adjust.extremes import ChannelExtremes, seen_by_channel
from deploykit.quantize.adjust.rescale import rescale
from deploykit.quantize.adjust.rows import RowSample
from deploykit.quantize.adjust.smooth import best_factors, is_smoothed
from deploykit.quantize.graph.values import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploykit.core.progress import Progress
    from deploykit.load.data import Array
    from deploykit.quantize.adjust.channels import Channels
    from deploykit.quantize.place.targets import Placement
    from deploykit.quantize.prepare.prepare import Prepared


@dataclass(frozen=True, slots=True, eq=False)
class Rescaled:
    """A float graph that computes the same with other weights.

    Attributes:
        prepared: the graph.
        equalised: the values whose channels were scaled so that weights are even.
        absorbed: layers that gave a part of their bias to the next ones.
        smoothed: values whose outliers went into weights, each with its alpha.
    """

    prepared: Prepared
    equalised: tuple[str, ...] = ()
    absorbed: tuple[str, ...] = ()
    smoothed: tuple[tuple[str, float], ...] = ()


def equalise(
    prepared: Prepared,
    batches: Iterable[Mapping[str, Array]],
    *,
    threads: int = 0,
    progress: Progress,
) -> Rescaled:
    """Equalise across layers, and absorb biases (see `equalise.py` and `absorb.py`).

    Args:
        prepared: the float graph; not changed.
        batches: inputs by name, read once: on them the function stays what it is.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.
    """
    graph = Graph(prepared.model, prepared.folder)
    sets = [one for one in channels_of(graph) if is_equalised(one)]
    if not sets:
        return Rescaled(prepared)
    observers = {
        name: ChannelExtremes(one.axis, one.size) for one in sets for name in one.values
    }  # fmt: skip
    seen_by_channel(prepared, observers, batches, threads=threads, progress=progress)
    scaled = factors_of(graph, sets, observers)
    rescale(graph, scaled)
    least = {
        name: observers[name].low / factors
        for one, factors in scaled
        for name in one.values
        if name in absorbable(graph)
    }
    absorbed = absorb(graph, least)
    names = tuple(one.values[0] for one, factors in scaled if (factors != 1).any())
    return Rescaled(replace(prepared, model=graph.whole()), names, absorbed)


def smooth(
    prepared: Prepared,
    placement: Placement,
    alpha: float | None,
    batches: Iterable[Mapping[str, Array]],
    *,
    threads: int = 0,
    progress: Progress,
) -> Rescaled:
    """Move outliers of activations into the weights of matrix products (see `smooth.py`).

    Args:
        prepared: the float graph; not changed.
        placement: of the target.
        alpha: of all values; `None` searches one for each.
        batches: inputs by name, read once.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.
    """
    graph = Graph(prepared.model, prepared.folder)
    sets = [one for one in channels_of(graph) if is_smoothed(one)]
    observers = {name: RowSample(one.axis, one.size) for one in sets for name in _taken(one)}
    if not sets:
        return Rescaled(prepared)
    seen_by_channel(prepared, observers, batches, threads=threads, progress=progress)
    found = [(one, best_factors(graph, one, observers, placement, alpha)) for one in sets]
    kept = [(one, best) for one, best in found if best is not None]
    rescale(graph, [(one, factors) for one, (_, factors) in kept])
    names = tuple((one.values[-1], chosen) for one, (chosen, _) in kept)
    return Rescaled(replace(prepared, model=graph.whole()), smoothed=names)


def _taken(channels: Channels) -> set[str]:
    """What the layers of a set read."""
    return {one.node.input[0] for one in channels.takers}
