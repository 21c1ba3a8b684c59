"""A network run up to a layer, and on from there once the layer has changed.

What is alive between two stops lies in files, batch by batch: memory is that of one batch, whatever
the number of samples, and no node runs twice on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.quantize.graph.values import captured_by, without_weights
from deploykit.quantize.graph.write import write_graph
from deploykit.runtimes.ort import CPU_PROVIDER  # before onnxruntime: it switches off telemetry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx

    from deploykit.load.data import Array


class Walk:
    """One network under way.

    Attributes:
        batches: how many there are.
    """

    def __init__(
        self, model: onnx.ModelProto, origin: Path | None, folder: Path, threads: int = 0
    ) -> None:
        """Begin before the first node.

        Args:
            model: its initializers are read anew for each stretch: they may change.
            origin: where its external data lies.
            folder: an empty one for what is alive; the caller removes it.
            threads: of ONNX Runtime; 0 for one a core.
        """
        self._model, self._origin, self._folder, self._threads = model, origin, folder, threads
        names = {tensor.name for tensor in model.graph.initializer}
        self._fixed = _made_of_constants(model.graph.node, names)
        fixed = {id(node) for node in self._fixed.values()}
        self._nodes = [node for node in model.graph.node if id(node) not in fixed]
        self._places = {node.name: place for place, node in enumerate(self._nodes)}
        self._last = {
            name: place for place, node in enumerate(self._nodes) for name in _reads(node)
        }
        self._numbers: dict[str, int] = {}
        self._at = 0
        self._kinds: dict[str, tuple[int, int]] = {}
        self.batches = 0

    def feed(self, batch: Mapping[str, Array]) -> None:
        """Take one more batch of the network's inputs."""
        for name, values in batch.items():
            if name in self._last:
                self._keep(name, self.batches, values)
        self.batches += 1

    def until(self, name: str) -> None:
        """Run everything before the node of this name."""
        end = self._places[name]
        nodes = self._nodes[self._at : end]
        made = [n for node in nodes for n in node.output if self._last.get(n, -1) >= end]
        for number, values in enumerate(self._run(nodes, made)):
            for value, array in values.items():
                self._keep(value, number, array)
        self._at = end
        for gone in [one for one in self._kinds if self._last[one] < end]:
            del self._kinds[gone]
            for number in range(self.batches):
                self._file(gone, number).unlink()

    def results(self, name: str) -> Iterator[Array]:
        """What the node of this name, which comes next, makes of every batch; nothing is kept."""
        node = self._nodes[self._places[name]]
        made = str(node.output[0])
        return (values[made] for values in self._run([node], [made]))

    def inputs(self, value: str) -> Iterator[Array]:
        """A value that is alive here, batch by batch."""
        return (np.load(self._file(value, number)) for number in range(self.batches))

    def _run(
        self, nodes: Sequence[onnx.NodeProto], made: Sequence[str]
    ) -> Iterator[dict[str, Array]]:
        if not made:
            return
        within = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in _reads(node) if name)
        outside = [name for name in read if name in self._kinds and name not in within]
        session = self._session(nodes, outside, made)
        for number in range(self.batches):
            feeds = {name: np.load(self._file(name, number)) for name in outside}
            yield dict(zip(made, session.run(list(made), feeds), strict=True))

    def _session(
        self, nodes: Sequence[onnx.NodeProto], outside: Sequence[str], made: Sequence[str]
    ) -> Any:
        import onnxruntime

        path, *more = write_graph(
            self._piece(nodes, outside, made), self._origin, self._folder / "piece.onnx"
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        # Quantizers stay what they are: no integer kernel of this machine takes part.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.enable_cpu_mem_arena = False
        session = onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])
        for file in (path, *more):
            file.unlink()
        return session

    def _piece(
        self, nodes: Sequence[onnx.NodeProto], outside: Sequence[str], made: Sequence[str]
    ) -> onnx.ModelProto:
        from onnx import TypeProto, helper

        piece = without_weights(self._model)
        graph = piece.graph
        for part in (graph.input, graph.output, graph.value_info):
            del part[:]
        for name in outside:
            kind, rank = self._kinds[name]
            graph.input.append(helper.make_tensor_value_info(name, kind, [None] * rank))
        graph.output.extend(helper.make_value_info(name, TypeProto()) for name in made)
        needed = list(self._behind(nodes))
        graph.node.extend([*needed, *nodes])
        read = {name for node in (*needed, *nodes) for name in _reads(node)}
        graph.initializer.extend(one for one in self._model.graph.initializer if one.name in read)
        return piece

    def _behind(self, nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        """Nodes that make constants of constants for these, in the order of the graph."""
        wanted: set[int] = set()
        open_ = list(nodes)
        while open_:
            for name in _reads(open_.pop()):
                found = self._fixed.get(name)
                if found is not None and id(found) not in wanted:
                    wanted.add(id(found))
                    open_.append(found)
        return (node for node in self._model.graph.node if id(node) in wanted)

    def _keep(self, name: str, number: int, values: Array) -> None:
        from onnx import helper

        self._kinds[name] = helper.np_dtype_to_tensor_dtype(values.dtype), values.ndim
        np.save(self._file(name, number), values)

    def _file(self, name: str, number: int) -> Path:
        # By a number: names of values are not names of files.
        return self._folder / f"{self._number(name)}-{number}.npy"

    def _number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))


def alive_bytes(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> int:
    """The most that waits between two nodes.

    Args:
        graph: in topological order.
        sizes: bytes of values; those not in it count as nothing.
    """
    last = {name: place for place, node in enumerate(graph.node) for name in _reads(node)}
    fresh = [[one.name for one in graph.input], *(list(node.output) for node in graph.node)]
    ends: dict[int, int] = {}
    alive = most = 0
    for place, names in enumerate(fresh, -1):
        for name in names:
            if name in last:
                alive += sizes.get(name, 0)
                ends[last[name]] = ends.get(last[name], 0) + sizes.get(name, 0)
        most = max(most, alive)
        alive -= ends.get(place, 0)
    return most


def _made_of_constants(
    nodes: Iterable[onnx.NodeProto], constants: Collection[str]
) -> dict[str, onnx.NodeProto]:
    """Nodes that read constants only, by what they make: dequantizers of weights."""
    found: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        if all(name in constants or name in found for name in _reads(node)):
            found.update({name: node for name in node.output if name})
    return found


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node and its subgraphs read; what a subgraph makes itself is among them."""
    yield from filter(None, node.input)
    yield from captured_by(node)
