"""Write a decision down: one cast a value and type, constants rounded once, types declared.

A value that is read in the type in which it is made has no cast. One that is read in the other has
one, behind the node that makes it, however many read it: never two that are alike, never two that
cancel. The name of a value that the outside knows (inputs, outputs, what bodies of If and Loop
read) stays with the type that the outside expects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploykit.quantize.half.known import FLOAT

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.values import Graph
    from deploykit.quantize.half.decide import Decision
    from deploykit.quantize.half.known import Known

_CONSTANT_OF_SHAPE = "ConstantOfShape"


def emit(known: Known, decision: Decision, *, half_io: bool = False) -> None:
    """Turn the graph of `known` into one of 16 bits. Changes it.

    Args:
        known: what was decided about.
        decision: where it computes in 16 bits.
        half_io: whether float32 inputs and outputs become of 16 bits, where their values fit.
    """
    work = _Emitting(known, decision, half_io)
    frame = known.graph.frame.graph
    for value in frame.input:
        work.declare_input(value)
    for node in known.graph.nodes:
        work.write(node)
    work.declare_outputs()
    known.graph.replace_nodes(work.nodes)
    work.finish()


@dataclass(slots=True)
class _Emitting:
    """A graph in the making."""

    known: Known
    decision: Decision
    half_io: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    versions: dict[tuple[str, int], str] = field(default_factory=dict)
    """Names by the original's and the type."""
    types: dict[str, int] = field(default_factory=dict)
    """Of names that are new or have another type."""
    origins: dict[str, str] = field(default_factory=dict)
    """The original of a new name."""

    @property
    def graph(self) -> Graph:
        """That is rewritten."""
        return self.known.graph

    @property
    def half(self) -> int:
        """The type of 16 bits."""
        return self.known.form.onnx_type

    def declare_input(self, value: onnx.ValueInfoProto) -> None:
        """An input, in the type that the outside gives."""
        if self.known.types.get(value.name) != FLOAT:
            return
        kind = FLOAT
        if (
            self.half_io
            and value.name not in self.graph.captured
            and self._is_read_half(value.name)
        ):
            kind = self.half
            value.type.tensor_type.elem_type = kind
        self.versions[value.name, kind] = value.name

    def _is_read_half(self, name: str) -> bool:
        return any(
            self.decision.reads_half(reader, place)
            for reader in self.graph.readers(name)
            for place, one in enumerate(reader.input)
            if one == name
        )

    def write(self, node: onnx.NodeProto) -> None:
        """A node, with casts of what it reads in another type than it was made."""
        ports = self.decision.ports[node.name]
        for place in ports.reads:
            half = self.decision.reads_half(node, place)
            node.input[place] = self._read(node.input[place], self.half if half else FLOAT)
        self.nodes.append(node)
        for place in ports.makes:
            if self.decision.makes_half(node, place):
                self._make_half(node, place)
            else:
                self.versions[node.output[place], FLOAT] = node.output[place]
        if any(self.decision.makes_half(node, place) for place in ports.makes):
            self._say_type(node)

    def _make_half(self, node: onnx.NodeProto, place: int) -> None:
        """An output of 16 bits; its name stays where nobody else expects float32 under it."""
        old = node.output[place]
        outside = any(value.name == old for value in self.graph.frame.graph.output)
        kept = old not in self.graph.captured and (self.half_io or not outside)
        new = old if kept else self._new_name(old, self.half)
        node.output[place] = new
        self.versions[old, self.half] = new
        self.types[new] = self.half
        if not kept:
            self._cast(old, self.half, FLOAT, old)

    def _say_type(self, node: onnx.NodeProto) -> None:
        """The attribute in which some operators say what they make."""
        from onnx import numpy_helper

        for item in node.attribute:
            if node.op_type == "Cast" and item.name == "to":
                item.i = self.half
            if node.op_type == _CONSTANT_OF_SHAPE and item.name == "value":
                value = self.known.form.rounded(numpy_helper.to_array(item.t))
                item.t.CopyFrom(numpy_helper.from_array(value, item.t.name))

    def _read(self, name: str, kind: int) -> str:
        """The name of a value in this type; a cast of it is added where there is none yet."""
        if (name, kind) in self.versions:
            return self.versions[name, kind]
        if name in self.graph.constants:
            return self._constant(name, kind)
        other = self.half if kind == FLOAT else FLOAT
        new = self._new_name(name, kind)
        self._cast(name, other, kind, new)
        return new

    def _cast(self, name: str, source: int, kind: int, new: str) -> None:
        from onnx import helper

        node = helper.make_node("Cast", [self.versions[name, source]], [new], f"{new}_cast")
        node.attribute.append(helper.make_attribute("to", kind))
        self.nodes.append(node)
        self.versions[name, kind] = new
        self.types[new] = kind

    def _constant(self, name: str, kind: int) -> str:
        """A constant, rounded once; the original goes in the end if nobody reads it."""
        from onnx import numpy_helper

        new = name
        if kind == self.half:
            new = self._new_name(name, kind)
            value = self.known.form.rounded(self.graph.array(name))
            self.graph.constants[new] = numpy_helper.from_array(value, new)
        self.versions[name, kind] = new
        return new

    def _new_name(self, name: str, kind: int) -> str:
        end = self.known.form.name if kind == self.half else "fp32"
        new = self.graph.free_name(f"{name}_{end}")
        self.origins[new] = name
        return new

    def declare_outputs(self) -> None:
        """Outputs in the type that the outside expects."""
        for value in self.graph.frame.graph.output:
            name = value.name
            if self.known.types.get(name) != FLOAT:
                continue
            if self.types.get(name) == self.half or self._is_half_input(name):
                value.type.tensor_type.elem_type = self.half
            elif name in self.graph.constants:
                self.versions[name, FLOAT] = name

    def _is_half_input(self, name: str) -> bool:
        return self.versions.get((name, self.half)) == name

    def finish(self) -> None:
        """Declare types of what is new, and drop constants that nobody reads any more."""
        frame = self.graph.frame.graph
        shapes = {value.name: value for value in frame.value_info}
        shapes |= {value.name: value for value in (*frame.input, *frame.output)}
        outside = {value.name for value in (*frame.input, *frame.output)}
        declared = {value.name: value for value in frame.value_info}
        for name, kind in self.types.items():
            known = shapes.get(self.origins.get(name, name))
            if name in outside or known is None:
                continue
            value = type(known)()
            value.CopyFrom(known)
            value.name = name
            value.type.tensor_type.elem_type = kind
            declared[name] = value
        del frame.value_info[:]
        frame.value_info.extend(declared.values())
        read = {name for node in self.nodes for name in node.input} | self.graph.kept
        for name in [one for one in self.graph.constants if one not in read]:
            del self.graph.constants[name]
