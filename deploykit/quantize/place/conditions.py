"""What a node has to be like for the integer kernel of its operator to take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.graph.values import attributes

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.wiring import Wiring


DEPTHWISE = "Conv, depthwise"
"""What tables call a convolution of each channel with a filter of its own."""


def kind_of(node: onnx.NodeProto, wiring: Wiring) -> str:
    """What tables call a node: its operator, but for depthwise convolutions."""
    weight = wiring.constants.get(node.input[1]) if node.op_type == "Conv" else None
    groups = attributes(node).get("group", 1) if weight is not None else 1
    is_depthwise = weight is not None and weight.dims[1] == 1 and groups != 1
    return DEPTHWISE if is_depthwise else str(node.op_type)


def plain_gemm(node: onnx.NodeProto, wiring: Wiring) -> str:
    """Why a Gemm is more than x W + b, or ""."""
    given = attributes(node)
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return "it scales its operands (alpha, beta)"
    bias = wiring.constants.get(node.input[2]) if len(node.input) > 2 else None
    if bias is not None and len(bias.dims) == 2 and bias.dims[0] != 1:
        return "its bias differs by row"
    return "it transposes its input" if given.get("transA", 0) else ""


def no_constants(node: onnx.NodeProto, wiring: Wiring) -> str:
    """Why a node joins more than activations, or ""."""
    constant = [name for name in node.input if name in wiring.constants]
    return f"it joins a constant, {constant[0]}" if constant else ""


def picks_values(node: onnx.NodeProto, wiring: Wiring) -> str:
    """Why a Resize computes values that were not there, or ""."""
    del wiring
    mode = attributes(node).get("mode", b"nearest")
    return "" if mode == b"nearest" else "it interpolates"


def finite_choice(node: onnx.NodeProto, wiring: Wiring) -> str:
    """Why a Where has no grid, or "": masks put in what is far from any activation."""
    names = [name for name in node.input[1:] if name in wiring.constants]
    return f"it puts in a constant, {names[0]}" if names else ""


def clips_from_zero(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Whether a Clip starts at 0: the lowest integer is exactly that then, nothing is rounded."""
    low = node.input[1] if len(node.input) > 1 else ""
    return low in wiring.constants and float(wiring.values(low)) == 0.0


def is_bias(node: onnx.NodeProto, product: onnx.NodeProto, wiring: Wiring) -> bool:
    """Whether a node adds the bias of a matrix product: one number for each column of its weights.

    A quantizer between the two would round twice.
    """
    if (node.op_type, product.op_type) != ("Add", "MatMul"):
        return False
    weight = wiring.constants.get(product.input[1])
    names = [name for name in node.input if name in wiring.constants]
    if weight is None or len(names) != 1:
        return False
    dims = list(wiring.constants[names[0]].dims)
    return bool(np.prod(dims) == weight.dims[-1] and dims[-1:] == [weight.dims[-1]])


def channels_read(layer: onnx.NodeProto, weight: list[int]) -> tuple[int, int]:
    """Which dimension of a layer's input has its channels, and how many, by its weight's shape."""
    given = attributes(layer)
    if layer.op_type == "Gemm":
        return 0 if given.get("transA", 0) else 1, weight[1 if given.get("transB", 0) else 0]
    groups = given.get("group", 1)
    assert isinstance(groups, int)
    return 1, weight[0] if layer.op_type == "ConvTranspose" else weight[1] * groups
