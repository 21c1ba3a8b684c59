"""Networks that cannot be quantized, each refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.quantize.graph.values import nodes_below

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.values import Graph

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Where the arithmetic is. A network without any of them is not worth quantizing."""

_QUANTIZED = frozenset({
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul", "MatMulBnb4", "MatMulFpQ4", "MatMulInteger", "MatMulInteger16",
    "MatMulIntegerToFloat", "MatMulNBits", "QuantizeLinear",
})  # fmt: skip
_QUANTIZED_BEGINNINGS = ("QLinear", "QGemm", "QAttention", "QOrdered", "QEmbed", "QMoE")
_FLOAT, _FLOAT16, _BFLOAT16 = 1, 10, 16  # onnx.TensorProto's numbers, for ever
_OTHER = {_FLOAT16: "float16", _BFLOAT16: "bfloat16"}


def refuse_quantized(model: onnx.ModelProto) -> None:
    """Look for quantized arithmetic, in subgraphs and functions too.

    Raises:
        BadInputError: there is some; the line names the first node.
    """
    nodes = [*model.graph.node, *(node for one in model.functions for node in one.node)]
    for node in nodes_below(nodes):
        if node.op_type in _QUANTIZED or node.op_type.startswith(_QUANTIZED_BEGINNINGS):
            raise BadInputError(
                f"this network is quantized already: node {node.name or node.output[0]!r} is "
                f"{node.op_type}; give the float network that it was made from"
            )


def refuse_other_types(graph: Graph) -> None:
    """Look for layers that compute in float32.

    Raises:
        BadInputError: a layer computes in float16 or bfloat16, or there is none in float32.
    """
    types = _types(graph)
    there = False
    for node in graph.nodes:
        if node.op_type not in LAYERS or node.domain != "":
            continue
        found = [types[name] for name in node.input if types.get(name)]
        for kind in found:
            if kind in _OTHER:
                raise BadInputError(
                    f"node {node.name or node.output[0]!r} ({node.op_type}) computes in "
                    f"{_OTHER[kind]}: give the float32 network that this one was made from"
                )
        there = there or not found or _FLOAT in found
    if not there:
        raise BadInputError(
            f"there is nothing to quantize: no {', '.join(LAYERS[:-1])} or {LAYERS[-1]} in float32 "
            "(what lies within If, Loop and Scan stays as it is)"
        )


def _types(graph: Graph) -> dict[str, int]:
    """Element types by name, as onnx numbers them."""
    frame = graph.frame.graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*frame.input, *frame.output, *frame.value_info)
    }
    return types | {name: tensor.data_type for name, tensor in graph.constants.items()}
