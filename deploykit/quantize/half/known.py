"""What is known of a graph that goes to half precision: one thing to hand about."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from deploykit.quantize.graph.values import Graph
    from deploykit.quantize.half.formats import Format
    from deploykit.quantize.ranges import Range

FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A float32 graph, what was seen of it, and where it goes.

    Attributes:
        graph: prepared; every node has a name of its own.
        form: the format of 16 bits.
        target: whose kernels count.
        ranges: of activations, by name; empty where there was no data.
        types: element types of values as onnx numbers them, 0 where it has none.
        shapes: of values: sizes, or names of sizes.
    """

    graph: Graph
    form: Format
    target: str
    ranges: Mapping[str, Range]
    types: Mapping[str, int]
    shapes: Mapping[str, tuple[int | str, ...]]

    @classmethod
    def of(cls, graph: Graph, form: Format, target: str, ranges: Mapping[str, Range]) -> Known:
        """Look at a graph as it is declared."""
        frame = graph.frame.graph
        values = {v.name: v for v in (*frame.value_info, *frame.input, *frame.output)}
        types = {name: _type(value) for name, value in values.items()}
        types |= {name: tensor.data_type for name, tensor in graph.constants.items()}
        shapes = {name: _shape(v) for name, v in values.items() if _type(v)}
        return cls(graph, form, target, ranges, types, shapes)

    def top(self, name: str) -> float | None:
        """The largest magnitude that was seen of a value."""
        seen = self.ranges.get(name)
        return None if seen is None else max(abs(seen.low), abs(seen.high))

    def added_up(self, node: onnx.NodeProto) -> float:
        """How many values a reduction makes one of; infinite where it is not known."""
        before, after = (self.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
        if not before or Counter(map(str, _open(before))) != Counter(map(str, _open(after))):
            return inf
        sizes = [prod(one for one in shape if isinstance(one, int)) for shape in (before, after)]
        return sizes[0] / max(sizes[1], 1)


def _type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param
        for d in value.type.tensor_type.shape.dim
    )


def _open(shape: tuple[int | str, ...]) -> list[str]:
    return [one for one in shape if isinstance(one, str)]
