"""Batch norms and arithmetic with constants, read as a scale and a shift by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.quantize.graph.values import attributes
from deploykit.quantize.prepare.layer_weights import CONVOLUTIONS, all_float32, weight_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.graph.values import Graph


@dataclass(frozen=True, slots=True)
class Affine:
    """y = scale x + shift, by channel.

    Attributes:
        scale: float64, of shape [channels] or [1].
        shift: the same.
    """

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


def layer_input(node: onnx.NodeProto, graph: Graph) -> str:
    """The input of a node that could be a layer's result: the one that is no constant, or ""."""
    if node.domain != "" or node.op_type not in {"BatchNormalization", "Mul", "Add", "Sub", "Div"}:
        return ""
    if node.op_type == "BatchNormalization":
        return str(node.input[0])
    variable = [name for name in node.input if name not in graph.constants]
    return variable[0] if len(variable) == 1 else ""


def other_input(node: onnx.NodeProto, name: str) -> str:
    """The input of a node of two that is not this one."""
    return str(next(one for one in node.input if one != name))


def affine_of(
    node: onnx.NodeProto, source: str, layer: onnx.NodeProto, graph: Graph
) -> Affine | None:
    """A node as scale and shift by channel of the layer before it, if that is what it is.

    Args:
        node: a batch norm, or a Mul, Add, Sub or Div with one constant.
        source: its input that `layer` makes.
        layer: one that has a weight.
        graph: of both.
    """
    import numpy as np

    if node.op_type == "BatchNormalization":
        return _norm(node, graph)
    constant = _by_channel(other_input(node, source), layer, graph)
    if constant is None:
        return None
    one, none = np.ones_like(constant), np.zeros_like(constant)
    first = node.input[0] == source
    if node.op_type == "Mul":
        return Affine(constant, none)
    if node.op_type == "Add":
        return Affine(one, constant)
    if node.op_type == "Sub":
        return Affine(one, -constant) if first else Affine(-one, constant)
    return Affine(1 / constant, none) if first and constant.all() else None


def _norm(node: onnx.NodeProto, graph: Graph) -> Affine | None:
    import numpy as np

    settings = attributes(node)
    extra = [name for name in node.output[1:] if name]
    if settings.get("training_mode", 0) or extra or not all_float32(node.input[1:], graph):
        return None
    if len({tuple(graph.constants[name].dims) for name in node.input[1:]}) != 1:
        return None
    scale, shift, mean, variance = (graph.array(name).astype(np.float64) for name in node.input[1:])
    epsilon = settings.get("epsilon", 1e-5)
    assert isinstance(epsilon, float)
    a = scale / np.sqrt(variance + epsilon)
    return Affine(a, shift - mean * a)


def _by_channel(name: str, layer: onnx.NodeProto, graph: Graph) -> NDArray[np.float64] | None:
    """A constant as one number, or one a channel of the layer's result; `None` if it is neither.

    A convolution's result has as many dimensions as its weight, and its channels are the second;
    those of a matrix product are the last.
    """
    import numpy as np

    weight = weight_of(layer, graph)
    if weight is None or not all_float32([name], graph):
        return None
    dims = list(graph.constants[name].dims)
    # A matrix product may have one dimension only: a constant of more would give it more.
    rank = 1 if layer.op_type == "MatMul" else len(graph.constants[weight].dims)
    if len(dims) > rank:
        return None
    whole = [1] * (rank - len(dims)) + dims
    whole.pop(1 if layer.op_type in CONVOLUTIONS else -1)
    if any(size != 1 for size in whole):
        return None
    return graph.array(name).astype(np.float64).reshape(-1)
