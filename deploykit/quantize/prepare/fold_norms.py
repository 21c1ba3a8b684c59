"""Fold batch norms, and scales and shifts by channel, into the layer before them.

At inference a batch norm is y = a x + c with a = scale / sqrt(variance + epsilon) and
c = shift - mean a (Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 2). A layer is linear
in its weights, so that a goes into the filter of each output channel, and c into the bias:

    a (W x + b) + c  =  (a W) x + (a b + c)

A quantizer between a layer and its norm would round twice, and no runtime joins the two again.
Folding needs that nobody else sees what lies between. Numbers are float64 until the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.quantize.graph.values import attributes
from deploykit.quantize.prepare.affine import affine_of, layer_input
from deploykit.quantize.prepare.fuse_biases import ranks_of, take_over
from deploykit.quantize.prepare.layer_weights import (
    CONVOLUTIONS,
    all_float32,
    channels_of,
    scaled,
    weight_of,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.graph.values import Graph
    from deploykit.quantize.prepare.affine import Affine

_FOLDABLE = CONVOLUTIONS | {"Gemm", "MatMul"}


def fold_norms(graph: Graph) -> tuple[str, ...]:
    """Fold all that can be. Changes `graph`.

    Returns:
        What the batch norms made that were folded, in the order of the graph.
    """
    import numpy as np

    folded: list[str] = []
    ranks = ranks_of(graph)
    for node in list(graph.nodes):
        source = layer_input(node, graph)
        layer = graph.sole_producer(source) if source else None
        if layer is None or layer.op_type not in _FOLDABLE or layer.domain != "":
            continue
        shifted = node.op_type not in {"Mul", "Div"}
        if layer.op_type == "MatMul" and shifted and ranks.get(layer.input[0]) != 2:
            continue  # its second dimension may not be its channels, and Gemm takes matrices only
        with np.errstate(all="ignore"):  # what is not finite is seen at the end, and not folded
            affine = affine_of(node, source, layer, graph)
            if affine is None or not _absorb(layer, affine, graph):
                continue
        take_over(layer, node, graph)
        if node.op_type == "BatchNormalization":
            folded.append(node.output[0])
    return tuple(folded)


def norms_left(graph: Graph) -> tuple[tuple[str, str], ...]:
    """Batch norms that stay, as outputs, each with why."""
    return tuple(
        (node.output[0], _why(node, graph))
        for node in graph.nodes
        if node.op_type == "BatchNormalization" and node.domain == ""
    )


def _why(norm: onnx.NodeProto, graph: Graph) -> str:
    source = norm.input[0]
    layer = graph.producer(source)
    if attributes(norm).get("training_mode"):
        return "it is in training mode"
    if layer is None:
        return "it reads an input of the network"
    if layer.op_type not in _FOLDABLE:
        return f"it follows {layer.op_type}, which has no weights"
    if source in graph.kept:
        return f"{source!r} is an output, or a subgraph reads it"
    if len(graph.readers(source)) > 1:
        return f"{len(graph.readers(source))} nodes read {source!r}"
    return "weights or statistics are not constants of float32, or their shapes do not match"


def _absorb(layer: onnx.NodeProto, affine: Affine, graph: Graph) -> bool:
    """Write scale and shift into a layer's weight and bias; whether that was possible."""
    import numpy as np

    name = weight_of(layer, graph)
    bias_name = layer.input[2] if len(layer.input) > 2 else ""
    if name is None or (bias_name and not all_float32([bias_name], graph)):
        return False
    channels = channels_of(layer, name, graph)
    if not {affine.scale.size, affine.shift.size} <= {1, channels}:
        return False
    scale, shift = (np.broadcast_to(one, channels) for one in (affine.scale, affine.shift))
    weight = scaled(layer, graph.array(name).astype(np.float64), scale).astype(np.float32)
    bias = graph.array(bias_name).astype(np.float64) if bias_name else np.zeros(channels)
    beta = attributes(layer).get("beta", 1.0)
    assert isinstance(beta, float)
    moved = (bias * beta * scale + shift).astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(moved).all()):
        return False  # a variance below zero, or a channel beyond float32
    inputs = [layer.input[0], _replaced(name, weight, graph)]
    if bias_name:
        inputs.append(_replaced(bias_name, moved, graph))
    elif moved.any():
        inputs.append(graph.add_constant(f"{name}_bias", moved))
    graph.set_inputs(layer, inputs)
    for place, item in enumerate(layer.attribute):
        if item.name == "beta":
            del layer.attribute[place]
            break
    if layer.op_type == "MatMul" and len(inputs) > 2:
        layer.op_type = "Gemm"
    return True


def _replaced(name: str, value: NDArray[np.float32], graph: Graph) -> str:
    """Store a changed constant: under its own name, or a new one where others read the old."""
    from onnx import numpy_helper

    if len(graph.readers(name)) > 1 or name in graph.kept:
        return graph.add_constant(f"{name}_folded", value)
    graph.constants[name] = numpy_helper.from_array(value, name)
    return name
