"""The shape and size of every value for one batch: without them no memory can be predicted.

A file may leave dimensions open. The batch that is about to run closes those of the inputs, and
onnx's shape inference carries them through the graph, from its start, sizes that the graph computes
itself among them (`bench.folding`). What the file says about values inside is not believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from deploykit.bench.folding import infer_folded
from deploykit.quantize.graph.values import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from deploykit.quantize.prepare.prepare import Prepared


@dataclass(frozen=True, slots=True)
class Value:
    """What is known about a value before it is computed.

    Attributes:
        elem_type: ONNX's number of its element type; 0 where it is no tensor.
        shape: `None` where only running the network tells.
        size_bytes: of it; an estimate where the shape is not known.
    """

    elem_type: int
    shape: tuple[int, ...] | None
    size_bytes: int

    @classmethod
    def of(cls, elem_type: int, shape: tuple[int, ...]) -> Value:
        """A tensor of a known shape."""
        return cls(elem_type, shape, prod(shape) * _width(elem_type))


def inferred(prepared: Prepared, fed: Mapping[str, tuple[int, ...]]) -> dict[str, Value]:
    """Values that inference knows, by name; those of a known type and an unknown shape with it.

    Args:
        prepared: the float graph.
        fed: shape of every input.
    """
    model = Graph(prepared.model, prepared.folder).with_stand_ins()
    for value in model.graph.input:
        if value.name in fed:
            _set_shape(value, fed[value.name])
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    model, _ = infer_folded(model)
    graph = model.graph
    found = {one.name: Value.of(one.data_type, tuple(one.dims)) for one in graph.initializer}
    return found | {v.name: _value(v) for v in (*graph.value_info, *graph.input, *graph.output)}


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = value.type.tensor_type.shape
    dims.ClearField("dim")
    for size in shape:
        dims.dim.add(dim_value=size)


def _value(value: onnx.ValueInfoProto) -> Value:
    if not value.type.HasField("tensor_type"):
        return Value(0, None, 0)
    kind = value.type.tensor_type
    dims = kind.shape.dim
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return Value(kind.elem_type, None, 0)
    return Value.of(kind.elem_type, tuple(dim.dim_value for dim in dims))


def _width(elem_type: int) -> int:
    """Bytes of an element; of a string, those of an empty one in ONNX Runtime."""
    from onnx import TensorProto, helper

    if elem_type in {TensorProto.UNDEFINED, TensorProto.STRING}:
        return 32
    return helper.tensor_dtype_to_np_dtype(elem_type).itemsize
