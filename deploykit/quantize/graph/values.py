"""A graph that is being rewritten: nodes, constants and who reads what, kept in step.

The constants stand apart from the graph, so that what serialises it (onnx's shape inference, its
version converter) never meets the weights: protobuf ends at 2 GB, and external data need not be
read. Where such a tool has to know a constant, a small one goes in by value and a large one as an
input of its shape (`with_stand_ins`).

Subgraphs (the bodies of If, Loop and Scan) are not rewritten. Names that they read from outside
are `captured` and stay.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING

from deploykit.quantize.graph.external import array_of, embed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import onnx
    from numpy.typing import NDArray

SMALL_ELEMENTS = 1024  # sizes, axes, scales: what shape inference and the converter look into


class Graph:
    """The main graph of a model, copied, ready to be changed.

    Attributes:
        frame: the model without nodes and initializers.
        nodes: in topological order; those dropped are gone.
        constants: initializers by name, possibly external. Tensors are replaced, never changed.
        folder: where external data lies.
        captured: names that subgraphs read from outside.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None) -> None:
        self.frame, self.constants = _apart(model)
        self.folder = folder
        self.replace_nodes([_standard_node(node) for node in model.graph.node])

    @property
    def kept(self) -> set[str]:
        """Names that must stay what they are: outputs, and what subgraphs read."""
        return {value.name for value in self.frame.graph.output} | self.captured

    def replace_nodes(self, nodes: list[onnx.NodeProto]) -> None:
        """Take other nodes, in topological order."""
        self.nodes = nodes
        self._index()

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Nodes that read a value, one entry for each time; subgraphs are not counted."""
        return self._readers[name]

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value; `None` for inputs and constants."""
        return self._producers.get(name)

    def sole_producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value which one node reads and nobody else sees."""
        alone = len(self.readers(name)) == 1 and name not in self.kept
        return self.producer(name) if alone else None

    def array(self, name: str) -> NDArray[np.generic]:
        """A constant's value, read from its file where it lies outside.

        Raises:
            BadInputError: its file is not known, missing, outside the folder, or too short.
        """
        return array_of(self.constants[name], self.folder)

    def add_constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a constant under this name, or one like it that is free; the name it got."""
        from onnx import numpy_helper

        free = self.free_name(name)
        self.constants[free] = numpy_helper.from_array(value, free)
        return free

    def free_name(self, name: str) -> str:
        """`name`, or with a number behind it where it is taken."""
        count, free = 1, name
        while free in self._names or free in self.constants:
            count += 1
            free = f"{name}_{count}"
        self._names.add(free)
        return free

    def set_inputs(self, node: onnx.NodeProto, names: list[str]) -> None:
        """Have a node read these values."""
        for name in node.input:
            _remove(self._readers[name], node)
        node.input[:] = names
        for name in names:
            self._readers[name].append(node)

    def rename_output(self, node: onnx.NodeProto, old: str, new: str) -> None:
        """Have a node make `new` in place of `old`."""
        node.output[list(node.output).index(old)] = new
        self._producers.pop(old, None)
        self._producers[new] = node

    def read_instead(self, old: str, new: str) -> None:
        """Have every node that reads `old` read `new`."""
        for node in list(self.readers(old)):
            self.set_inputs(node, [new if name == old else name for name in node.input])

    def drop(self, node: onnx.NodeProto) -> None:
        """Take a node out; what it made is made by nobody, unless a rename came first."""
        for name in node.input:
            _remove(self._readers[name], node)
        for name in node.output:
            if self._producers.get(name) is node:
                del self._producers[name]
        _remove(self.nodes, node)

    def with_stand_ins(self) -> onnx.ModelProto:
        """The model for tools that serialise it: see the top of this file."""
        from onnx import helper

        model = without_weights(self.frame)
        model.graph.node.extend(self.nodes)
        small = self.small()
        model.graph.initializer.extend(small.values())
        for name, tensor in self.constants.items():
            if name not in small:
                value = helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
                model.graph.input.append(value)
        return model

    def whole(self) -> onnx.ModelProto:
        """The model as it is now; external tensors still point into `folder`."""
        model = without_weights(self.frame)
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.constants.values())
        return model

    def small(self) -> dict[str, onnx.TensorProto]:
        """Constants of few elements with their bytes in them, by name."""
        return {
            name: embed(tensor, self.folder)
            for name, tensor in self.constants.items()
            if prod(tensor.dims) <= SMALL_ELEMENTS
        }

    def _index(self) -> None:
        self._readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._producers: dict[str, onnx.NodeProto] = {}
        self.captured = {name for node in self.nodes for name in captured_by(node)}
        for node in self.nodes:
            for name in node.input:
                self._readers[name].append(node)
            self._producers.update({name: node for name in node.output if name})
        graph = self.frame.graph
        self._names = {value.name for value in (*graph.input, *graph.output)} | self.captured
        self._names |= set(self._readers) | set(self._producers)
        self._names |= {name for node in self.nodes for name in _inner_names(node)}


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a node, not those within them."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes_below(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and all in their subgraphs, at any depth."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from nodes_below(list(body.node))


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Attributes of a node by name, as Python values."""
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _apart(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """A copy of the model without its initializers, and those by name.

    Old files list initializers among the inputs, as defaults that a caller may replace. A weight
    that may be replaced cannot be quantized: they are constants here.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    frame = without_weights(model)
    inputs = [value for value in model.graph.input if value.name not in constants]
    del frame.graph.input[:]
    frame.graph.input.extend(inputs)
    for entry in frame.opset_import:
        entry.domain = _standard(entry.domain)
    return frame, constants


def _standard(domain: str) -> str:
    """A domain with ONNX's own written one way: as ""."""
    return "" if domain == "ai.onnx" else domain


def _standard_node(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    for one in nodes_below([copy]):
        one.domain = _standard(one.domain)
    return copy


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without nodes and initializers: all of it may be over the 2 GB that one copy takes."""
    copy = type(model)()
    for field, value in model.ListFields():
        if field.name != "graph":
            _set(copy, field.name, value)
    copy.graph.SetInParent()
    for field, value in model.graph.ListFields():
        if field.name not in {"initializer", "node"}:
            _set(copy.graph, field.name, value)
    return copy


def _set(message: onnx.ModelProto | onnx.GraphProto, field: str, value: object) -> None:
    if isinstance(value, (bool, int, float, str, bytes)):
        setattr(message, field, value)
    elif hasattr(value, "SerializeToString"):
        getattr(message, field).CopyFrom(value)
    else:
        getattr(message, field).extend(value)


def captured_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the subgraphs of a node read. Some are their own: nobody outside has those."""
    for body in bodies(node):
        for inner in nodes_below(list(body.node)):
            yield from (name for name in inner.input if name)
            for deeper in bodies(inner):
                yield from (value.name for value in deeper.output)
        yield from (value.name for value in body.output)


def _inner_names(node: onnx.NodeProto) -> Iterator[str]:
    for body in bodies(node):
        yield from (value.name for value in (*body.input, *body.initializer))
        for inner in body.node:
            yield from inner.output
            yield from _inner_names(inner)


def _remove(nodes: list[onnx.NodeProto], node: onnx.NodeProto) -> None:
    """Remove this very node: nodes that are equal are not the same."""
    for place, one in enumerate(nodes):
        if one is node:
            del nodes[place]
            return


def names_once(nodes: list[onnx.NodeProto]) -> None:
    """Give every node a name that no other has; the first to have one keeps it."""
    given = {node.name for node in nodes}
    taken = {""}
    for node in nodes:
        if node.name in taken:
            made = next((name for name in node.output if name), "")
            base = node.name or f"{node.op_type}_{made}"
            name, count = base, 1
            while name in given or name in taken:
                count += 1
                name = f"{base}_{count}"
            node.name = name
        taken.add(node.name)
