"""Smoothing: outliers of activations go into weights, which have a scale for every channel.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models" (ICML 2023), section 4, equation 4: with the largest magnitudes of input channel j

    s_j = max |X_j| ** alpha / max |W_j| ** (1 - alpha),    X / s,    s W.

A norm, a product with a vector, or the layer before takes 1 / s into its constants, so that no
node is added. The paper has one alpha for a network; here every value may have its own: the one
with the least squared error of its layers' results, quantized, on rows of calibration data; none
where nothing is better than nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.place.numbers import grid_of, weight_grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from deploykit.quantize.adjust.channels import Channels
    from deploykit.quantize.adjust.layers import Layer
    from deploykit.quantize.adjust.rows import RowSample
    from deploykit.quantize.graph.values import Graph
    from deploykit.quantize.place.targets import Placement

ALPHAS = (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
_LEAST_GAIN = 0.95
"""Of the error without smoothing: what gains less is not worth a change."""
_MOST = 1e5


def is_smoothed(channels: Channels) -> bool:
    """Whether a set can be smoothed: products of matrices take it, and nothing fixes it."""
    products = {taker.node.op_type for taker in channels.takers}
    free = bool(channels.makers) or any(one.starts for one in channels.vectors)
    return bool(free and products and products <= {"MatMul", "Gemm"}) and not (
        channels.fixed or channels.caps
    )


def best_factors(
    graph: Graph,
    channels: Channels,
    seen: Mapping[str, RowSample],
    placement: Placement,
    alpha: float | None,
) -> tuple[float, NDArray[np.float64]] | None:
    """The factors of one set, and the alpha that they are from.

    Args:
        graph: that the set was found in; not changed.
        channels: one that `is_smoothed` takes.
        seen: what the layers of the set read, by name.
        placement: of the target: its integers.
        alpha: of the formula; `None` searches, and may find that nothing is better.
    """
    weights = {one.weight: _matrix(graph, one) for one in channels.takers}
    names = {one.node.input[0] for one in channels.takers}
    active = np.maximum.reduce([seen[name].magnitude for name in names])
    heavy = np.maximum.reduce([np.abs(weight).max(axis=1) for weight in weights.values()])
    if alpha is not None:
        return alpha, smoothing_factors(active, heavy, alpha)

    def error(factors: NDArray[np.float64]) -> float:
        return sum(
            product_error(seen[one.node.input[0]], weights[one.weight], factors, placement)
            for one in channels.takers
        )

    tried = [(one, smoothing_factors(active, heavy, one)) for one in ALPHAS]
    errors = [error(factors) for _, factors in tried]
    best = int(np.argmin(errors))
    plain = error(np.ones(channels.size))
    return tried[best] if errors[best] < _LEAST_GAIN * plain else None


def _matrix(graph: Graph, layer: Layer) -> NDArray[np.float32]:
    """[in, out]."""
    split = layer.form.split(graph.array(layer.weight))
    return np.asarray(split[0, :, :, 0].T, np.float32)


def smoothing_factors(
    active: NDArray[np.float64], heavy: NDArray[np.float64], alpha: float
) -> NDArray[np.float64]:
    """Equation 4, with a mean of 1 over the channels on a logarithmic scale.

    Args:
        active: [channels], largest magnitudes of activations.
        heavy: [channels], of weights.
        alpha: from 0 (weights are even) to 1 (activations are).
    """
    alive = (active > 0) & (heavy > 0)
    raw = np.ones_like(active)
    raw[alive] = active[alive] ** alpha / heavy[alive] ** (1 - alpha)
    if alive.any():
        raw[alive] /= np.exp(np.log(raw[alive]).mean())
    return np.clip(raw, 1 / _MOST, _MOST)


def product_error(
    seen: RowSample, weight: NDArray[np.float32], factors: NDArray[np.float64], placement: Placement
) -> float:
    """The summed squared error of a product whose operands are quantized.

    Args:
        seen: the rows that are multiplied.
        weight: [in, out].
        factors: [in].
        placement: of the target.
    """
    low, high = float((seen.low / factors).min()), float((seen.high / factors).max())
    inputs = grid_of(low, high, placement.activation, symmetric=placement.symmetric)
    rows = (seen.rows / factors).astype(np.float32)
    scaled = (weight * factors[:, None]).astype(np.float32)
    heavy = weight_grid(scaled, 1 if placement.per_channel else None, placement.weight_bits)
    found = inputs.restored(inputs.quantized(rows)) @ heavy.restored(heavy.quantized(scaled))
    return float(np.square(found - seen.rows @ weight, dtype=np.float64).sum())
