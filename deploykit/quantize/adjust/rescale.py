"""Factors into a graph: what makes a value is divided by them, what takes it is multiplied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.adjust.layers import (
    channels_in,
    channels_out,
    floats_of,
    rescaled,
    write_constant,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from deploykit.quantize.adjust.channels import Channels, Vectors
    from deploykit.quantize.adjust.layers import Layer
    from deploykit.quantize.graph.values import Graph


def rescale(graph: Graph, scaled: Iterable[tuple[Channels, NDArray[np.float64]]]) -> None:
    """Write factors into weights, biases and constants by channel. Changes `graph`.

    Every constant is written once, from what it was, with all the factors that it has.

    Args:
        graph: that the sets were found in.
        scaled: sets, each with its factors: [channels], above 0.
    """
    layers: dict[str, tuple[Layer, NDArray[np.float64], NDArray[np.float64]]] = {}

    def sides(layer: Layer) -> tuple[Layer, NDArray[np.float64], NDArray[np.float64]]:
        ones = np.ones(channels_out(layer.form)), np.ones(channels_in(layer.form))
        return layers.setdefault(layer.weight, (layer, *ones))

    for channels, factors in scaled:
        for maker in channels.makers:
            sides(maker)[1][:] /= factors
        for taker in channels.takers:
            sides(taker)[2][:] *= factors
        for vectors in channels.vectors:
            _divide(graph, vectors, channels, factors)
    for layer, over_out, over_in in layers.values():
        _write(graph, layer, over_out, over_in)


def _write(
    graph: Graph, layer: Layer, over_out: NDArray[np.float64], over_in: NDArray[np.float64]
) -> None:
    weight = rescaled(layer.form, graph.array(layer.weight), over_out, over_in)
    write_constant(graph, layer.node, 1, weight, f"{layer.weight}_scaled")
    if layer.bias and not (over_out == 1).all():
        bias = (floats_of(graph, layer.bias) * over_out).astype(np.float32)
        write_constant(graph, layer.node, 2, bias, f"{layer.bias}_scaled")


def _divide(
    graph: Graph, vectors: Vectors, channels: Channels, factors: NDArray[np.float64]
) -> None:
    for position in vectors.positions:
        name = vectors.node.input[position]
        value = floats_of(graph, name)
        # A vector, or one with dimensions of size 1 around its channels.
        beside = factors.reshape([-1 if size == channels.size else 1 for size in value.shape])
        divided = (value / beside).astype(np.float32)
        write_constant(graph, vectors.node, position, divided, f"{name}_scaled")
