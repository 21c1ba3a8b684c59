"""A graph cut into pieces that run one after another, so that little of it is alive at once.

Cuts are between nodes, in their order; a piece reads what earlier pieces made and gives what later
ones, or the observers, want. What is computed is what the whole graph computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.quantize.graph.values import captured_by
from deploykit.quantize.graph.write import size_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import onnx


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some consecutive nodes.

    Attributes:
        nodes: in their order.
        reads: values from outside that are no constants.
        gives: values that are wanted outside: observed, or read by later pieces.
        constants: names of the initializers that it needs.
        frees: values that nobody reads after it.
    """

    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    constants: tuple[str, ...]
    frees: tuple[str, ...]


def pieces(
    graph: onnx.GraphProto,
    wanted: Collection[str],
    sizes: Mapping[str, int],
    most_bytes: int,
) -> tuple[Piece, ...]:
    """Cut a graph.

    Args:
        graph: in topological order; nodes that nothing wanted depends on are left out.
        wanted: values that are observed.
        sizes: bytes of each value for one batch; those not in it count as nothing.
        most_bytes: of wanted values, and of weights, that a piece may have; one node may have
            more.
    """
    nodes = _needed(graph, wanted)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    parts: list[list[onnx.NodeProto]] = [[]]
    weight = 0
    seen: set[str] = set()
    for node in nodes:
        new = sum(sizes.get(name, 0) for name in node.output if name in wanted)
        fresh = {name for name in _reads(node) if name in constants} - seen
        new += sum(size_bytes(constants[name]) for name in fresh)
        if parts[-1] and weight + new > most_bytes:
            parts.append([])
            weight, seen = 0, set()
        parts[-1].append(node)
        weight += new
        seen |= fresh
    values = {value.name for value in graph.input} | {n for node in nodes for n in node.output}
    return tuple(
        _piece(number, parts, constants, values - constants.keys(), wanted)
        for number in range(len(parts))
        if parts[number]
    )


def _needed(graph: onnx.GraphProto, wanted: Collection[str]) -> list[onnx.NodeProto]:
    """Nodes that wanted values depend on."""
    alive = set(wanted)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if alive.intersection(node.output):
            kept.append(node)
            alive.update(_reads(node))
    return kept[::-1]


def _piece(
    number: int,
    parts: Sequence[Sequence[onnx.NodeProto]],
    constants: Mapping[str, onnx.TensorProto],
    values: Collection[str],
    wanted: Collection[str],
) -> Piece:
    nodes = parts[number]
    made = {name for node in nodes for name in node.output if name}
    read = dict.fromkeys(name for node in nodes for name in _reads(node))
    later = {name for part in parts[number + 1 :] for node in part for name in _reads(node)}
    outside = tuple(name for name in read if name in values and name not in made)
    gives = [n for node in nodes for n in node.output if n and (n in wanted or n in later)]
    return Piece(
        tuple(nodes),
        outside,
        tuple(gives),
        tuple(name for name in read if name in constants),
        tuple(name for name in (*outside, *gives) if name not in later),
    )


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node and its subgraphs read; what a subgraph makes itself is among them."""
    yield from filter(None, node.input)
    yield from captured_by(node)
