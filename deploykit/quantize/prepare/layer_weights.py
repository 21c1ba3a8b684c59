"""Layers: which constant is the weight, and which of its dimensions are output channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.quantize.graph.values import attributes

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.graph.values import Graph

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_FLOAT = 1  # onnx.TensorProto.FLOAT, which never changes


def weight_of(layer: onnx.NodeProto, graph: Graph) -> str | None:
    """The name of a layer's weight, where it is a constant of float32 with enough dimensions."""
    name = layer.input[1]
    if not all_float32([name], graph):
        return None
    rank = len(graph.constants[name].dims)
    enough = rank > 2 if layer.op_type in CONVOLUTIONS else rank == 2
    return name if enough else None


def channels_of(layer: onnx.NodeProto, weight: str, graph: Graph) -> int:
    """How many output channels a layer has whose weight is this constant."""
    dims, settings = [int(size) for size in graph.constants[weight].dims], attributes(layer)
    if layer.op_type == "Conv":
        return dims[0]
    if layer.op_type == "ConvTranspose":
        group = settings.get("group", 1)
        assert isinstance(group, int)
        return dims[1] * group
    return dims[0] if settings.get("transB", 0) else dims[1]


def scaled(
    layer: onnx.NodeProto, weight: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A weight with each output channel scaled.

    Convolution: [out, in / group, ...]. Transposed: [in, out / group, ...], the inputs of a group
    one after the other. Matrices: [in, out], or [out, in] where Gemm transposes.
    """
    settings = attributes(layer)
    if layer.op_type == "Conv":
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op_type == "ConvTranspose":
        group = settings.get("group", 1)
        assert isinstance(group, int)
        grouped = weight.reshape(group, -1, *weight.shape[1:])
        of_group = scale.reshape(group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        return (grouped * of_group).reshape(weight.shape)
    return weight * (scale[:, None] if settings.get("transB", 0) else scale)


def all_float32(names: Iterable[str], graph: Graph) -> bool:
    """Whether these are all constants of float32."""
    tensors = [graph.constants.get(name) for name in names]
    return all(tensor is not None and tensor.data_type == _FLOAT for tensor in tensors)
