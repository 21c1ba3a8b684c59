"""A graph cut into pieces that run one after another, so that little of it is alive at once.

Cuts are between nodes, in their order; a piece reads what earlier pieces made and gives what later
ones, or the observers, want. Every node computes what it computes in the whole graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.quantize.calibrate.alive import Alive, inner_bytes
from deploykit.quantize.graph.values import captured_by
from deploykit.quantize.graph.write import size_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import onnx

    from deploykit.quantize.calibrate.shapes import Value


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some consecutive nodes.

    Attributes:
        nodes: in their order.
        reads: values from outside that are no constants.
        gives: values that are wanted outside: observed, or read by later pieces.
        constants: names of the initializers that it needs.
        frees: values that nobody reads after it.
        inner_bytes: of the values that stay inside and of what kernels take to work, at most.
    """

    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    constants: tuple[str, ...]
    frees: tuple[str, ...]
    inner_bytes: int


def pieces(
    graph: onnx.GraphProto,
    wanted: Collection[str],
    values: Mapping[str, Value],
    most_bytes: int,
    *,
    with_weights: bool = False,
) -> tuple[Piece, ...]:
    """Cut a graph.

    Args:
        graph: in topological order; nodes that nothing wanted depends on are left out.
        wanted: values that are observed.
        values: for one batch; those not in it count as nothing.
        most_bytes: of values that are alive while a piece runs, those carried past it among them;
            a piece of one node may have more. The graph's inputs do not count.
        with_weights: whether weights of a piece count, too: they leave memory with it.
    """
    nodes = needed(graph, wanted)
    reads = [tuple(dict.fromkeys(_reads(node))) for node in nodes]
    weights = {tensor.name: size_bytes(tensor) for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - weights.keys()
    apart = inputs | weights.keys()
    sizes = {name: value.size_bytes for name, value in values.items() if name not in apart}
    uncut = {name for name, value in values.items() if not value.elem_type}
    last = {name: place for place, names in enumerate(reads) for name in names}
    alive = Alive(sizes, weights if with_weights else {}, last, frozenset(wanted), uncut)
    starts = [0]
    for place, node in enumerate(nodes):
        if alive.after(node, reads[place]) > most_bytes and alive.may_cut():
            alive.cut()
            starts.append(place)
        alive.run(place, node, reads[place])
    known = inputs | {name for node in nodes for name in node.output if name}
    around = _Around(last, known, weights.keys(), frozenset(wanted), values)
    ends = [*starts[1:], len(nodes)]
    return tuple(
        around.piece(nodes[start:end], reads[start:end], end)
        for start, end in zip(starts, ends, strict=True)
        if start < end
    )


def needed(graph: onnx.GraphProto, wanted: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes that wanted values depend on, in their order."""
    alive = set(wanted)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if alive.intersection(node.output):
            kept.append(node)
            alive.update(_reads(node))
    return kept[::-1]


@dataclass(frozen=True, slots=True)
class _Around:
    """What a piece has to know of the others.

    Attributes:
        last: place of the last node that reads a name.
        known: values of the graph.
        constants: its initializers.
        wanted: values that are observed.
        values: for one batch.
    """

    last: Mapping[str, int]
    known: Collection[str]
    constants: Collection[str]
    wanted: Collection[str]
    values: Mapping[str, Value]

    def piece(
        self, nodes: Sequence[onnx.NodeProto], reads: Sequence[tuple[str, ...]], end: int
    ) -> Piece:
        """Of the nodes before place `end`."""
        last = self.last
        made = dict.fromkeys(name for node in nodes for name in node.output if name)
        read = dict.fromkeys(name for names in reads for name in names)
        outside = tuple(name for name in read if name in self.known and name not in made)
        gives = tuple(name for name in made if name in self.wanted or last.get(name, -1) >= end)
        return Piece(
            tuple(nodes),
            outside,
            gives,
            tuple(name for name in read if name in self.constants),
            tuple(name for name in (*outside, *gives) if last.get(name, -1) < end),
            inner_bytes(nodes, reads, made.keys() - set(gives), self.values),
        )


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node and its subgraphs read; what a subgraph makes itself is among them."""
    yield from filter(None, node.input)
    yield from captured_by(node)
