"""Which nodes stay float32: by their operator, their constants, and the ranges that were seen.

A value that does not fit makes float32 of every node that makes or reads it: a cast would overflow
just as well. What computes nothing follows its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploykit.quantize.half import rules
from deploykit.quantize.half.known import FLOAT
from deploykit.quantize.half.node_reasons import why_not
from deploykit.quantize.half.ports import ports_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import onnx

    from deploykit.quantize.graph.values import Graph
    from deploykit.quantize.half.known import Known
    from deploykit.quantize.half.ports import Ports

HEADROOM = 2.0
"""Data that was not seen may reach further than what was: ranges have to fit this many times."""
BETWEEN = "it lies between nodes in float32"


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """Where the graph computes in 16 bits.

    Attributes:
        ports: of every node that touches float32, by its name.
        kept: nodes that stay float32, by name, each with why.
    """

    ports: Mapping[str, Ports]
    kept: Mapping[str, str]

    def reads_half(self, node: onnx.NodeProto, place: int) -> bool:
        """Whether a node reads this input in 16 bits."""
        return node.name not in self.kept and self.ports[node.name].reads.get(place, False)

    def makes_half(self, node: onnx.NodeProto, place: int) -> bool:
        """Whether a node makes this output in 16 bits."""
        return node.name not in self.kept and self.ports[node.name].makes.get(place, False)


def decide(known: Known, exclude: Collection[str] = ()) -> Decision:
    """Choose.

    Args:
        known: the graph, and what was seen of it.
        exclude: names of nodes that stay float32.
    """
    opsets = {one.domain: one.version for one in known.graph.frame.opset_import}
    nodes = known.graph.nodes
    ports = {node.name: ports_of(node, known.types, opsets, known.form) for node in nodes}
    work = _Deciding(known, ports)
    for node in nodes:
        if node.name in exclude and ports[node.name].there:
            work.keep(node, "it is excluded")
        elif why := why_not(node, ports[node.name], known):
            work.keep(node, why)
    work.keep_large()
    work.keep_what_leads_there()
    work.keep_between()
    return Decision(ports, work.kept)


@dataclass(slots=True)
class _Deciding:
    """A decision under way."""

    known: Known
    ports: Mapping[str, Ports]
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """That is decided about."""
        return self.known.graph

    def keep(self, node: onnx.NodeProto, why: str) -> None:
        """Leave a node in float32; the first reason counts."""
        self.kept.setdefault(node.name, why)

    def keep_large(self) -> None:
        """Leave whatever touches a value that does not fit."""
        for name, why in self._unfit():
            maker, readers = self.graph.producer(name), self.graph.readers(name)
            if self._is_small(name):
                readers = [node for node in readers if not self._drowns(node)]
                maker = maker if readers or name in self.graph.kept else None
            for node in ([maker] if maker is not None else []) + readers:
                if self.ports[node.name].there:
                    self.keep(node, why)

    def _is_small(self, name: str) -> bool:
        return 0 < (self.known.top(name) or 0.0) < self.known.form.least

    def _drowns(self, node: onnx.NodeProto) -> bool:
        """Whether a node adds what is small to something that is not: then no bit of it counts."""
        return node.op_type in rules.ADDS and not self._is_small(node.output[0])

    def _unfit(self) -> Iterator[tuple[str, str]]:
        form = self.known.form
        for name in self.known.ranges:
            top = self.known.top(name) or 0.0
            if top * HEADROOM > form.largest:
                yield name, f"{name} reaches {top:.3g}; {form.word} ends at {form.largest:.5g}"
            elif self._is_small(name):
                yield name, f"{name} is at most {top:.3g}, where {form.word} loses precision"
        if not self.known.ranges:
            yield from self._huge()

    def _huge(self) -> Iterator[tuple[str, str]]:
        """Without data: values that a huge constant (a mask) may be in."""
        huge: dict[str, str] = {}
        for node in self.graph.nodes:
            if node.op_type not in rules.CARRIES | rules.MOVES:
                continue
            found = [huge[name] for name in node.input if name in huge]
            found += [name for name in node.input if self._is_huge(name)]
            if found:
                huge.update(dict.fromkeys(filter(None, node.output), found[0]))
        for name, constant in huge.items():
            yield name, f"{name} may be as large as the constant {constant}"

    def _is_huge(self, name: str) -> bool:
        import numpy as np

        if self.known.types.get(name) != FLOAT or name not in self.graph.constants:
            return False
        values = np.asarray(self.graph.array(name), np.float64)
        return self.known.form.too_large(float(np.abs(values[np.isfinite(values)]).max(initial=0)))

    def keep_what_leads_there(self) -> None:
        """Leave what computes an angle, or the argument of what magnifies rounding near zero."""
        for node in reversed(self.graph.nodes):
            if node.name not in self.kept:
                continue
            if node.op_type in rules.ANGLES:
                self._keep_before(node, node.input[0], rules.TURNS, "needs its angle exact")
            place = rules.NEAR_ZERO.get(node.op_type)
            if place is not None and place < len(node.input):
                why = "magnifies what it would lose"
                self._keep_before(node, node.input[place], rules.LEADS, why)

    def _keep_before(
        self, node: onnx.NodeProto, name: str, leads: Collection[str], why: str
    ) -> None:
        todo, seen = [name], set[str]()
        while todo:
            name = todo.pop()
            maker = self.graph.producer(name)
            if name in seen or maker is None or not self.ports[maker.name].there:
                continue
            seen.add(name)
            if maker.op_type in leads:
                self.keep(maker, f"{node.op_type} {node.name} {why}")
                todo += self._behind(maker) if leads is rules.LEADS else maker.input
            elif maker.op_type in rules.MOVES:
                todo.append(maker.input[0])

    def _behind(self, node: onnx.NodeProto) -> list[str]:
        """Inputs of such a node that lead there, too: up to a square, and the difference in it."""
        names = [name for name in dict.fromkeys(node.input) if name not in self.graph.constants]
        makers = {name: self.graph.producer(name) for name in names}
        if node.op_type in rules.ENDS or (node.op_type == "Mul" and len(set(node.input)) == 1):
            return [n for n, maker in makers.items() if maker and maker.op_type == "Sub"]
        if node.op_type == "Sub" or len(names) > 1:
            allowed = rules.STATISTICS
        elif node.op_type in rules.STATISTICS:
            allowed = rules.STATISTICS | {"Abs", "Mul", "Sub"}
        else:
            return names
        return [n for n, maker in makers.items() if maker and maker.op_type in allowed]

    def keep_between(self) -> None:
        """Have what computes nothing follow its neighbours where all of them are float32."""
        before: set[str] = set()
        for node in self.graph.nodes:
            if self._is_free_move(node) and self._all_float(node, before):
                before.add(node.name)
        after: set[str] = set()
        for node in reversed(self.graph.nodes):
            if node.name in before and self._all_read_float(node, after):
                after.add(node.name)
                self.keep(node, BETWEEN)

    def _is_free_move(self, node: onnx.NodeProto) -> bool:
        return (
            node.op_type in rules.MOVES
            and node.name not in self.kept
            and self.ports[node.name].there
        )

    def _all_float(self, node: onnx.NodeProto, before: set[str]) -> bool:
        """Whether all that it reads is made in float32."""
        for place in self.ports[node.name].reads:
            name = node.input[place]
            maker = self.graph.producer(name)
            if maker is None or maker.name in self.kept or maker.name in before:
                continue
            number = list(maker.output).index(name)
            if self.ports[maker.name].makes.get(number, False):
                return False
        return True

    def _all_read_float(self, node: onnx.NodeProto, after: set[str]) -> bool:
        """Whether all that it makes is read in float32."""
        for name in (node.output[place] for place in self.ports[node.name].makes):
            for reader in self.graph.readers(name):
                if reader.name in self.kept or reader.name in after:
                    continue
                places = [p for p, one in enumerate(reader.input) if one == name]
                if any(self.ports[reader.name].reads.get(place, False) for place in places):
                    return False
        return True
