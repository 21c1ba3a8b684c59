"""Who makes a value of an ONNX graph, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploykit.quantize.graph.external import array_of
from deploykit.quantize.graph.values import captured_by

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """The main graph of a model, looked up by names. Not to be used after the graph has changed.

    Attributes:
        graph: the main graph.
        makers: node by each of its outputs.
        readers: nodes by each of their inputs, in the graph's order, each once.
        constants: initializers by name.
        outputs: names of the graph's outputs.
        outer: names that subgraphs (of `If`, `Loop`, `Scan`) read from this graph.
        folder: where external data lies.
    """

    graph: onnx.GraphProto
    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, tuple[onnx.NodeProto, ...]]
    constants: Mapping[str, onnx.TensorProto]
    outputs: frozenset[str]
    outer: frozenset[str]
    folder: Path | None = None

    @classmethod
    def of(cls, model: onnx.ModelProto, folder: Path | None = None) -> Wiring:
        """Look at the main graph of a model."""
        graph = model.graph
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(filter(None, node.input)):
                readers.setdefault(name, []).append(node)
        return cls(
            graph,
            {name: node for node in graph.node for name in node.output if name},
            {name: tuple(nodes) for name, nodes in readers.items()},
            {tensor.name: tensor for tensor in graph.initializer},
            frozenset(value.name for value in graph.output),
            frozenset(name for node in graph.node for name in captured_by(node)),
            folder,
        )

    def values(self, name: str) -> NDArray[Any]:
        """The numbers of an initializer."""
        return array_of(self.constants[name], self.folder)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a value that nobody else wants; `None` where there is none."""
        readers = self.readers.get(name, ())
        wanted = name in self.outputs or name in self.outer
        return readers[0] if len(readers) == 1 and not wanted else None
