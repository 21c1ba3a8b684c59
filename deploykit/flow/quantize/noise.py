"""How noisy each layer of a quantized network is: three networks in one graph, compared inside.

::

    input ──┬── float/…     the float network
            ├── int8/…      the quantized one: all noise so far is in its values
            └── alone/…     each layer quantized by itself, on what the float network gives it

One session runs all three and adds squares up (`deploykit.check.signal`), so that memory is that
of the networks for one small batch, however many samples there are. ONNX Runtime optimises it as
ever: what is compared is what its integer kernels really give.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from deploykit.check.signal import signals, tap
from deploykit.core.progress import Progress, silent
from deploykit.quantize.graph.values import bodies, without_weights
from deploykit.quantize.graph.wiring import Wiring
from deploykit.quantize.graph.write import write_graph
from deploykit.quantize.place.targets import Role

if TYPE_CHECKING:
    import onnx

    from deploykit.load.data import Array
    from deploykit.quantize.place.decide import Decision

FLOAT, WHOLE, ALONE = "float", "int8", "alone"
_TO_FLOAT, _TO_INTEGERS = "DequantizeLinear", "QuantizeLinear"

Batches: TypeAlias = Iterable[Mapping[str, "Array"]]
Rename: TypeAlias = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Noise:
    """What one layer adds.

    Attributes:
        snr_db: of its result in the quantized network, or `None`.
        alone_db: where it alone is quantized, or `None`.
    """

    snr_db: float | None
    alone_db: float | None


def layer_noise(
    float_model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    decision: Decision,
    folder: Path | None,
    batches: Batches,
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> dict[str, Noise]:
    """The signal-to-noise ratio of every quantized layer that computes.

    Args:
        float_model: that quantizers were placed in.
        quantized: what came of it; nodes have the names that they have in `float_model`.
        decision: which nodes are quantized.
        folder: where external data of the two lies.
        batches: inputs by name, small ones; read once.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.

    Returns:
        By the names of nodes, in the order of the graph; what only moves values is left out.

    Raises:
        BadInputError: ONNX Runtime cannot run the three.
    """
    merging = _Merging(Wiring.of(float_model), Wiring.of(quantized), decision)
    merging.networks()
    rows = {
        node.name: merging.compare(node)
        for node in float_model.graph.node
        if node.name in decision.nodes and decision.nodes[node.name].role is not Role.MOVES
    }
    with tempfile.TemporaryDirectory(prefix="deploykit-") as place:
        path, *_ = write_graph(merging.model(quantized), folder, Path(place) / "noise.onnx")
        pairs = [name for both in rows.values() for name in both if name]
        found = signals(path, pairs, batches, threads=threads, progress=progress)

    def db(pair: str) -> float | None:
        return found[pair].db if pair else None

    return {name: Noise(db(whole), db(alone)) for name, (whole, alone) in rows.items()}


@dataclass(slots=True, eq=False)
class _Merging:
    """The graph of all three under way."""

    float_: Wiring
    int8: Wiring
    decision: Decision
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    taps: list[tuple[str, str, str]] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)
    """Float values by the names that they have in the quantized network."""
    last: dict[str, str] = field(default_factory=dict)
    """The other way round: what reads a float value behind its quantizer reads this."""
    paired: set[str] = field(default_factory=set)
    """Pairs that stand in the third network already."""
    theirs: dict[str, onnx.NodeProto] = field(default_factory=dict)
    """Nodes of the quantized network by name."""
    float_names: frozenset[str] = frozenset()
    """Names of the nodes of the float network."""

    def networks(self) -> None:
        """The float network and the quantized one, and which of their values are the same."""
        for wiring, prefix in ((self.float_, FLOAT), (self.int8, WHOLE)):
            rename = self._prefixed(wiring, prefix)
            self.nodes += [_renamed(node, rename) for node in wiring.graph.node]
        self.theirs.update({node.name: node for node in self.int8.graph.node})
        self.float_names = frozenset(node.name for node in self.float_.graph.node)
        inputs = [value.name for value in self.float_.graph.input]
        self.origin.update({name: name for name in inputs if name not in self.float_.constants})
        for node in self.float_.graph.node:
            if node.name in self.theirs:
                pairs = zip(self.theirs[node.name].output, node.output, strict=False)
                self.origin.update((mine, value) for mine, value in pairs if mine and value)
        self.last.update({value: mine for mine, value in self.origin.items()})
        for node in self.int8.graph.node:
            before = self._quantizer_of(node)
            if before is not None and before.input[0] in self.origin:
                value = self.origin[before.input[0]]
                self.origin[node.output[0]] = value
                self.last[value] = node.output[0]

    def compare(self, node: onnx.NodeProto) -> tuple[str, str]:
        """Put taps on a layer's result; their names, "" for what cannot be compared."""
        result = self.decision.results[node.name]
        whole = alone = ""
        if result in self.last:
            whole = f"{WHOLE}-of/{node.name}"
            rival = self._prefixed(self.int8, WHOLE)(self.last[result])
            self.taps.append((whole, self._float(result), rival))
        made = self._alone(node, result)
        if made:
            alone = f"{ALONE}-of/{node.name}"
            self.taps.append((alone, self._float(result), made))
        return whole, alone

    def model(self, like: onnx.ModelProto) -> onnx.ModelProto:
        """All of it, with the opsets of one of the two."""
        import onnx

        made = without_weights(like)
        graph = made.graph
        del graph.output[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        for wiring, prefix in ((self.float_, FLOAT), (self.int8, WHOLE)):
            for tensor in wiring.constants.values():
                copy = onnx.TensorProto()
                copy.CopyFrom(tensor)
                copy.name = f"{prefix}/{tensor.name}"
                graph.initializer.append(copy)
        for pair, value, rival in self.taps:
            tap(graph, pair, value, rival)
        return made

    def _prefixed(self, wiring: Wiring, prefix: str) -> Rename:
        """Names of a network in the whole; inputs keep theirs."""
        known = wiring.makers.keys() | wiring.constants.keys()
        return lambda name: f"{prefix}/{name}" if name in known else name

    def _float(self, value: str) -> str:
        return self._prefixed(self.float_, FLOAT)(value)

    def _quantizer_of(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The QuantizeLinear before a DequantizeLinear of an activation."""
        if node.op_type != _TO_FLOAT:
            return None
        before = self.int8.makers.get(node.input[0])
        if before is None or before.op_type != _TO_INTEGERS:
            return None
        to, back = (self.int8.values(one.input[1]) for one in (before, node))
        return before if np.all(to == back) else None  # another scale: the values times a factor

    def _alone(self, node: onnx.NodeProto, result: str) -> str:
        """A layer in the third network, with what its quantizer absorbs; its last value or ""."""
        names: dict[str, str] = {}
        chain = self._chain(node, result)
        for one in chain:
            copy = self._node_alone(one, names)
            if copy is None:
                return ""
            self.nodes.append(copy)
        made = names.get(chain[-1].output[0], "") if chain else ""
        behind = self.last.get(result, "")
        pair = self.int8.makers.get(behind)
        if made and pair is not None and (before := self._quantizer_of(pair)) is not None:
            return self._pair(before, pair, made, f"{ALONE}/{node.name}/result")
        return made

    def _chain(self, node: onnx.NodeProto, result: str) -> list[onnx.NodeProto]:
        """The nodes of the quantized network from a layer to its result; empty if they are gone."""
        found = [node]
        while result not in found[-1].output:
            reader = self.float_.only_reader(found[-1].output[0])
            if reader is None:
                return []
            found.append(reader)
        known = all(one.name in self.theirs for one in found)
        return [self.theirs[one.name] for one in found] if known else []

    def _node_alone(self, node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto | None:
        """A copy that reads what the float network gives; `None` where that is not known.

        Args:
            node: of the quantized network.
            names: of the layer's own values so far, by their names there; results are added.
        """
        import onnx

        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{ALONE}/{node.name}"
        for place, name in enumerate(node.input):
            read = names.get(name) or self._read_alone(name) or self._new_alone(name, names)
            if name and not read:
                return None
            copy.input[place] = read
        for place, name in enumerate(node.output):
            if name:
                names[name] = copy.output[place] = f"{ALONE}/{node.name}/{place}"
        return copy

    def _read_alone(self, name: str) -> str:
        """The float network's value behind the quantizer that there is, or a constant."""
        maker = self.int8.makers.get(name)
        if name in self.int8.constants or (maker is not None and self._is_constant(maker)):
            return f"{WHOLE}/{name}"
        value = self.origin.get(name)
        if value is None:
            return ""
        before = None if maker is None else self._quantizer_of(maker)
        if maker is None or before is None:
            return self._float(value)
        pair = f"{ALONE}/value/{value}"
        return self._pair(before, maker, self._float(value), pair)

    def _new_alone(self, name: str, names: dict[str, str]) -> str:
        """A copy of what quantization put before a layer as a part of it, or ""."""
        maker = self.int8.makers.get(name)
        if maker is None or maker.name in self.float_names:
            return ""
        copy = self._node_alone(maker, names)
        if copy is None:
            return ""
        copy.name = copy.output[0]
        self.nodes.append(copy)
        return names[name]

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        return all(name in self.int8.constants for name in node.input if name)

    def _pair(self, to: onnx.NodeProto, back: onnx.NodeProto, source: str, name: str) -> str:
        """A copy of a quantizer and its dequantizer behind a value; written once by its name."""
        if name not in self.paired:
            self.paired.add(name)
            middle, behind = f"{name}/quantized", f"{name}/dequantized"
            for one, read, made in ((to, source, middle), (back, middle, behind)):
                copy = _renamed(one, self._prefixed(self.int8, WHOLE))
                copy.name, copy.input[0], copy.output[0] = made, read, made
                self.nodes.append(copy)
        return f"{name}/dequantized"


def _renamed(node: onnx.NodeProto, rename: Rename) -> onnx.NodeProto:
    """A copy with other names, in its subgraphs too; the copy's own name is its first result's."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for names in (copy.input, copy.output):
        names[:] = [rename(name) for name in names]
    copy.name = next((name for name in copy.output if name), copy.name)
    for body in bodies(copy):
        _rename_captured(body, rename)
    return copy


def _rename_captured(body: onnx.GraphProto, rename: Rename) -> None:
    """Rename what a subgraph reads from outside. Changes it."""
    own = {value.name for value in (*body.input, *body.initializer)}
    own |= {name for node in body.node for name in node.output}

    def outside(name: str) -> str:
        return name if name in own else rename(name)

    for node in body.node:
        node.input[:] = [outside(name) for name in node.input]
        for deeper in bodies(node):
            _rename_captured(deeper, outside)
    for value in body.output:
        value.name = outside(value.name)
