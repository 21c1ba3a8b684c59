"""Which nodes are quantized, and which values get a quantizer that spans which ranges.

Forward, every node that a target has an integer kernel for is taken where its operands allow it;
backward, what no quantized node reads goes back to float: a quantizer that only a float node reads
costs time. No range is needed for it: what is decided says which ones are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploykit.quantize.place.conditions import clips_from_zero, is_bias, kind_of
from deploykit.quantize.place.targets import Out, Role

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import onnx

    from deploykit.quantize.graph.wiring import Wiring
    from deploykit.quantize.place.targets import Placement, Rule

_LEAST_DIMS = 2  # of weights: a vector is a bias or a factor


@dataclass(frozen=True, slots=True)
class Left:
    """A node that stays float although its target could quantize it.

    Attributes:
        node: its name.
        op: its operator.
        why: in a phrase.
    """

    node: str
    op: str
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be quantized.

    Attributes:
        nodes: rules by the names of the nodes that are.
        results: by the name of such a node its result, behind what the quantizer absorbs.
        values: activations that get a quantizer, each with the values whose ranges it spans.
        left: nodes that stay float, with reasons. Those that only move values have none to give.
    """

    nodes: Mapping[str, Rule]
    results: Mapping[str, str]
    values: Mapping[str, tuple[str, ...]]
    left: tuple[Left, ...] = ()

    @property
    def wanted(self) -> set[str]:
        """Values whose ranges have to be known."""
        return {name for span in self.values.values() for name in span}


def decide(
    wiring: Wiring,
    placement: Placement,
    floats: Collection[str],
    exclude: Collection[str] = (),
    unknown: Collection[str] = (),
) -> Decision:
    """Choose nodes and values.

    Args:
        wiring: of the float graph, prepared.
        placement: of the target.
        floats: names of values that are real numbers.
        exclude: names of nodes that stay float.
        unknown: those of `floats` that nobody knows the range of.
    """
    work = _Deciding(wiring, placement, floats, frozenset(exclude), frozenset(unknown))
    for node in wiring.graph.node:
        work.consider(node)
    work.prune()
    values = work.values()
    return Decision(work.chosen, work.results, values, tuple(work.left))


@dataclass(slots=True)
class _Deciding:
    """A decision under way."""

    wiring: Wiring
    placement: Placement
    floats: Collection[str]
    exclude: frozenset[str]
    unknown: frozenset[str]
    chosen: dict[str, Rule] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    biases: set[str] = field(default_factory=set)
    """Names of nodes that add the bias of a product: a part of it."""
    left: list[Left] = field(default_factory=list)
    integers: set[str] = field(default_factory=set)
    """Values that are there as integers: results of chosen nodes, and what products read."""
    moved: set[str] = field(default_factory=set)
    """Results that have the range of what was moved."""

    def consider(self, node: onnx.NodeProto) -> None:
        """Take a node, or note why not."""
        rules = self.placement.rules
        rule = rules.get(kind_of(node, self.wiring), rules.get(node.op_type))
        if rule is None or node.domain not in ("", "ai.onnx"):
            return
        if node.name in self.biases:
            return
        read = self._activations(node, rule)
        if not read or any(name not in self.floats for name in read):
            return  # shapes and indices
        why = self._against(node, rule)
        if why:
            if rule.role is not Role.MOVES or node.name in self.exclude:
                self.left.append(Left(node.name, node.op_type, why))
            return
        self.chosen[node.name] = rule
        self.results[node.name] = self._behind(node)
        self.integers.add(self.results[node.name])
        self.integers.update(node.output[1:])
        if rule.role is Role.COMPUTES:
            self.integers.update(read)
        elif rule.role is Role.MOVES:
            self.moved.update((self.results[node.name], *node.output[1:]))

    def _against(self, node: onnx.NodeProto, rule: Rule) -> str:
        """Why a node cannot be taken, or ""."""
        if node.name in self.exclude:
            return "it is excluded"
        activations = self._activations(node, rule)
        if unknown := [one for one in activations if one in self.unknown and one not in self.moved]:
            return f"there is no range of {unknown[0]}"
        if rule.needs is not None and (why := rule.needs(node, self.wiring)):
            return why
        floats = [name for name in activations if name not in self.integers]
        if floats and not rule.stands_alone:
            return f"{floats[0]} is float"
        return "" if rule.weight is None else self._against_weight(node, rule, rule.weight)

    def _against_weight(self, node: onnx.NodeProto, rule: Rule, position: int) -> str:
        weight = self.wiring.constants.get(node.input[position])
        if weight is None:
            return "" if position in rule.reads else "its weights are computed"
        return "its weights are a vector" if len(weight.dims) < _LEAST_DIMS else ""

    def _activations(self, node: onnx.NodeProto, rule: Rule) -> list[str]:
        """What a node reads that is computed at run time and quantized."""
        positions = rule.reads or range(len(node.input))
        names = [node.input[i] for i in positions if i < len(node.input) and node.input[i]]
        return [name for name in names if name not in self.wiring.constants]

    def _behind(self, node: onnx.NodeProto) -> str:
        """The value behind a node's bias, where that is a node of its own, and what clips."""
        name = str(node.output[0])
        reader = self.wiring.only_reader(name)
        if reader is not None and is_bias(reader, node, self.wiring) and self._is_free(reader):
            self.biases.add(reader.name)
            name = str(reader.output[0])
            reader = self.wiring.only_reader(name)
        while reader is not None and self._is_absorbed(reader) and self._is_free(reader):
            name = str(reader.output[0])
            reader = self.wiring.only_reader(name)
        return name

    def _is_free(self, node: onnx.NodeProto) -> bool:
        """Whether a quantizer can stand behind this node in place of before it."""
        return node.name not in self.exclude and self._is_known(node.output[0])

    def _is_known(self, name: str) -> bool:
        return name in self.floats and name not in self.unknown

    def _is_absorbed(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in self.placement.absorbed:
            return False
        return node.op_type != "Clip" or clips_from_zero(node, self.wiring)

    def prune(self) -> None:
        """Give back to float what no quantized node reads."""
        for node in reversed(self.wiring.graph.node):
            rule = self.chosen.get(node.name)
            if rule is None or rule.stands_alone or self._is_read(node):
                continue
            del self.chosen[node.name], self.results[node.name]
            if rule.role is not Role.MOVES:
                self.left.append(Left(node.name, node.op_type, "no quantized node reads it"))

    def _is_read(self, node: onnx.NodeProto) -> bool:
        names = (self.results[node.name], *node.output[1:])
        return any(self._chosen_readers(name) for name in names)

    def _chosen_readers(self, name: str) -> list[onnx.NodeProto]:
        return [
            reader
            for reader in self.wiring.readers.get(name, ())
            if reader.name in self.chosen
            and name in self._read_quantized(reader, self.chosen[reader.name])
        ]

    def values(self) -> dict[str, tuple[str, ...]]:
        """Values with quantizers, each with those whose ranges it spans."""
        found: dict[str, tuple[str, ...]] = {}
        same: list[list[str]] = []
        for node in self.wiring.graph.node:
            rule = self.chosen.get(node.name)
            if rule is None:
                continue
            read = self._read_quantized(node, rule)
            for name in read:
                found.setdefault(name, (name,))
            made = [self.results[node.name], *node.output[1:]]
            wanted = [name for name in made if self._is_wanted(name, rule)]
            for name in wanted:
                found.setdefault(name, found[read[0]] if rule.role is Role.MOVES else (name,))
            if node.op_type in self.placement.same_scale:
                same.append([*read, *wanted])
        return _merged(found, same)

    def _is_wanted(self, name: str, rule: Rule) -> bool:
        if rule.role is not Role.MOVES and not self._is_known(name):
            return False
        return rule.out is Out.ALWAYS or bool(self._chosen_readers(name))

    def _read_quantized(self, node: onnx.NodeProto, rule: Rule) -> list[str]:
        """Activations that get a quantizer because this node reads them."""
        names = self._activations(node, rule)
        if not self.placement.residual or node.op_type != "Add":
            return names
        fused = [name for name in names if self._is_fusible(name)]
        return [name for name in names if name not in fused[-1:]]

    def _is_fusible(self, name: str) -> bool:
        """Whether a sum can be made in the kernel of the product that gives this operand."""
        maker = self.wiring.makers.get(name)
        if maker is None or maker.name not in self.chosen:
            return False
        is_product = self.chosen[maker.name].role is Role.COMPUTES
        return is_product and self.wiring.only_reader(name) is not None


def _merged(
    found: Mapping[str, tuple[str, ...]], same: Iterable[list[str]]
) -> dict[str, tuple[str, ...]]:
    """One range for all values that want one scale."""
    made = dict(found)
    for names in same:
        spans = {made[name] for name in names if name in made}
        whole = tuple(dict.fromkeys(name for span in spans for name in span))
        made = {name: whole if span in spans else span for name, span in made.items()}
    return made
