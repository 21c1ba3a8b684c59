"""The constants of an ONNX graph: which of them a network has learnt, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from deploykit.bench.macs import Shape

# Element types by their number in onnx.TensorProto.DataType, which never changes.
_INT32 = 6
_QUANTIZED = frozenset({2, 3, 21, 22, 25, 26})  # UINT8 INT8 UINT4 INT4 UINT2 INT2
_FLOATS = frozenset(
    {1, 10, 11, 16, 17, 18, 19, 20, 23}
)  # float32, 16, 64, bfloat16, float8, float4
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip

# Inputs whose constants say how, not what: scales, zero points, limits, sizes, running statistics.
_SETTINGS = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "ConvInteger": (2, 3),
    "DequantizeLinear": (1, 2),
    "Dropout": (1, 2),
    "MatMulInteger": (2, 3),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
# Exporters write the numbers of a formula (a half, a scale) as constants of one element for these.
_FORMULAS = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Where"})
# Where an int32 constant is a quantized bias and not a shape.
_BIASES = {"DequantizeLinear": 0, "QLinearConv": 8}


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of a value of a graph without its bytes.

    Attributes:
        shape: its sizes, or `None` where not even their number is known.
        dtype: onnx's number of the element type, 0 where it is not known.
        constant: whether it is part of the file.
    """

    shape: Shape | None
    dtype: int
    constant: bool = False

    @property
    def elements(self) -> int | None:
        """How many there are, or `None`."""
        sizes = self.shape
        if sizes is None or any(size is None for size in sizes):
            return None
        return prod(size for size in sizes if size is not None)

    @property
    def bytes(self) -> int | None:
        """How large it is, elements of fewer than 8 bits packed, or `None`."""
        bits, elements = _BITS.get(self.dtype), self.elements
        return None if bits is None or elements is None else (elements * bits + 7) // 8


def learnt(op: str, index: int, tensor: Tensor) -> int:
    """How many learnt numbers a constant holds, read as input `index` of the operator `op`."""
    if not tensor.constant or not tensor.shape or index in _SETTINGS.get(op, ()):
        return 0
    if tensor.elements == 1 and op in _FORMULAS:
        return 0
    weight = tensor.dtype in _FLOATS or tensor.dtype in _QUANTIZED
    bias = tensor.dtype == _INT32 and _BIASES.get(op) == index
    return (tensor.elements or 0) if weight or bias else 0


def of_value(value: onnx.ValueInfoProto) -> Tensor:
    """What a value's declared or inferred type says."""
    if not value.type.HasField("tensor_type"):
        return Tensor(None, 0)
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return Tensor(None, kind.elem_type)
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    return Tensor(sizes, kind.elem_type)


def of_initializer(tensor: onnx.TensorProto) -> Tensor:
    """A tensor of the file; external data need not be there."""
    return Tensor(tuple(tensor.dims), tensor.data_type, constant=True)


def of_constant(node: onnx.NodeProto) -> Tensor:
    """What a `Constant` node holds. Numbers and lists given as attributes are settings: scalars."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return of_initializer(attribute.t)
        if attribute.name == "sparse_value":
            return of_initializer(attribute.sparse_tensor.values)
    return Tensor((), 0, constant=True)
