"""Bias absorption: what a channel always has goes into the next layer's bias.

Nagel et al., ICCV 2019, section 4.1.3: equalisation can leave a channel a large bias, and its
activations a range far from zero. Where x = W1 z + b1 is never below c, ReLU(x - c) = ReLU(x) - c,

    b1 - c,    b2 + W2 c.

The paper takes c = mean - 3 deviations of a batch norm; here it is the least value that data
reached, so that nothing changes on that data. A layer that pads with zeros is left alone: c would
be missing at its edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.adjust.layers import channels_out, floats_of, layer_of, write_constant

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.adjust.layers import Layer
    from deploykit.quantize.graph.values import Graph

_BIAS = 2


def absorbable(graph: Graph) -> tuple[str, ...]:
    """Results of layers that have a ReLU and unpadded layers behind them, and nothing else."""
    return tuple(
        relu.input[0]
        for relu in graph.nodes
        if relu.op_type == "Relu" and relu.domain == "" and _neighbours(graph, relu) is not None
    )


def absorb(graph: Graph, least: Mapping[str, NDArray[np.float64]]) -> tuple[str, ...]:
    """Move what is always there from biases to the next layers' biases. Changes `graph`.

    Args:
        graph: equalised.
        least: by the names that `absorbable` gives: [channels], the least value on data.

    Returns:
        Names of the layers whose bias became smaller.
    """
    changed: list[str] = []
    for relu in list(graph.nodes):
        found = _neighbours(graph, relu) if relu.op_type == "Relu" else None
        if found is None or relu.input[0] not in least:
            continue
        maker, takers = found
        always = np.maximum(least[relu.input[0]], 0.0)
        if not always.any():
            continue
        _add(graph, maker, -always)
        for taker in takers:
            weight = taker.form.split(graph.array(taker.weight)).astype(np.float64).sum(axis=3)
            moved = np.einsum("goi,gi->go", weight, always.reshape(taker.form.groups, -1))
            _add(graph, taker, moved.reshape(-1))
        changed.append(maker.node.name)
    return tuple(changed)


def _neighbours(graph: Graph, relu: onnx.NodeProto) -> tuple[Layer, list[Layer]] | None:
    """The layer before a ReLU and those behind it, where a constant can go from one to others."""
    source, made = relu.input[0], relu.output[0]
    before = graph.sole_producer(source)
    maker = layer_of(before, graph) if before is not None else None
    readers = graph.readers(made)
    if maker is None or not maker.takes_bias or not readers or made in graph.kept:
        return None
    found = [layer_of(reader, graph) for reader in readers]
    takers = [one for one in found if one and one.takes_bias and not one.is_padded]
    alone = all(list(reader.input).count(made) == 1 for reader in readers)
    return (maker, takers) if alone and len(takers) == len(readers) else None


def _add(graph: Graph, layer: Layer, amount: NDArray[np.float64]) -> None:
    # Read anew: a bias may have been written since the layer was looked at.
    bias = layer.node.input[_BIAS] if len(layer.node.input) > _BIAS else ""
    before = floats_of(graph, bias) if bias else np.zeros(channels_out(layer.form))
    name = f"{bias}_moved" if bias else f"{layer.weight}_bias"
    after = (before + amount).astype(np.float32)
    write_constant(graph, layer.node, _BIAS, after, name)
