"""MatMul and the Add of its bias are one layer: Gemm, where all are matrices.

Its bias can then be quantized with it. Where the rank is another, or not known, the two stay; the
bias then gets as many dimensions as the product has. Of a vector and fixed shapes ONNX Runtime
(1.32) makes a float Gemm, around which it cannot fuse quantizers any more: DeiT-tiny in integers
took 1.16x of its time in float with vectors, and 0.49x with [1, 1, columns].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.quantize.prepare.affine import layer_input, other_input
from deploykit.quantize.prepare.layer_weights import weight_of

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.values import Graph


def fuse_biases(graph: Graph) -> tuple[tuple[str, str], ...]:
    """Make one Gemm of a MatMul and the Add of its bias, where both are matrices. Changes `graph`.

    Returns:
        Outputs of the MatMul and Add of each pair that stays apart, since the rank is not 2 or is
        not known.
    """
    apart: list[tuple[str, str]] = []
    ranks = ranks_of(graph)
    for node in list(graph.nodes):
        if node.op_type != "Add" or node.domain != "":
            continue
        source = layer_input(node, graph)
        layer = graph.sole_producer(source) if source else None
        if layer is None or layer.op_type != "MatMul" or weight_of(layer, graph) is None:
            continue
        bias = other_input(node, source)
        columns = graph.constants[layer.input[1]].dims[1]
        dims = list(graph.constants[bias].dims)
        fits = len(dims) <= 2 and all(size == 1 for size in dims[:-1])
        fits = fits and (not dims or dims[-1] in {1, columns})
        rank = ranks.get(layer.input[0], 0)
        if not fits or rank != 2:
            apart.append((source, node.output[0]))
            if fits and rank > 2 and dims:
                _lift(node, bias, rank, graph)
            continue
        graph.set_inputs(layer, [*layer.input, bias])
        layer.op_type = "Gemm"
        take_over(layer, node, graph)
    return tuple(apart)


def _lift(node: onnx.NodeProto, bias: str, rank: int, graph: Graph) -> None:
    """Have a node read a bias of so many dimensions, all but the last of them 1."""
    value = graph.array(bias)
    lifted = graph.add_constant(f"{bias}_lifted", value.reshape([1] * (rank - 1) + [-1]))
    graph.set_inputs(node, [lifted if name == bias else name for name in node.input])


def take_over(layer: onnx.NodeProto, node: onnx.NodeProto, graph: Graph) -> None:
    """Have a layer make what the node behind it made, which goes."""
    graph.drop(node)
    graph.rename_output(layer, layer.output[0], node.output[0])


def ranks_of(graph: Graph) -> dict[str, int]:
    """Number of dimensions of values, where it is known."""
    frame = graph.frame.graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*frame.input, *frame.output, *frame.value_info)
        if value.type.tensor_type.HasField("shape")
    }
