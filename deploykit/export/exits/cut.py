"""Which nodes each stage of a graph has, and what passes from stage to stage.

A stage computes what its exit needs and no stage before has computed: the first one its exit and
all that leads there, the next one the rest of the way to the next exit. What a later stage reads of
an earlier one passes between them, however many tensors that are (skips, dense connections).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        exit: the output that it answers with.
        nodes: numbers in the graph, in its order.
        takes: names of what it reads of the graph's inputs and of earlier stages, sorted by where
            they are made.
        gives: names of what later stages read of it, likewise.
    """

    exit: str
    nodes: tuple[int, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]


def stages_of(graph: onnx.GraphProto, exits: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of a graph.

    Args:
        graph: its nodes in an order that can be computed, as ONNX has it.
        exits: names of outputs, in the order of computation; the last is the network's own end.

    Raises:
        BadInputError: an exit that is no output, or one that comes after a later one.
    """
    outputs = [output.name for output in graph.output]
    for name in exits:
        if name not in outputs:
            raise BadInputError(f"the graph has no output {name!r}{nearest(name, outputs)}")
    makers = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    taken: set[int] = set()
    parts: list[list[int]] = []
    for number, name in enumerate(exits):
        needed = _leading_to(graph, makers, name)
        if not needed - taken:
            before = exits[number - 1] if number else "the inputs"
            raise BadInputError(f"exit {name!r} needs nothing that {before!r} has not computed")
        parts.append(sorted(needed - taken))
        taken |= needed
    return _wired(graph, makers, parts, exits)


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """All that a node reads, in the bodies of `If`, `Loop` and `Scan` too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs] if attribute.type in {5, 10} else ():
            made = {x.name for x in (*body.input, *body.initializer)}
            for inner in body.node:
                yield from (name for name in names_read(inner) if name not in made)
                made.update(inner.output)
            yield from (x.name for x in body.output if x.name not in made)


def _leading_to(graph: onnx.GraphProto, makers: dict[str, int], name: str) -> set[int]:
    """Numbers of all nodes that a value needs."""
    found: set[int] = set()
    open_ = [makers[name]] if name in makers else []
    while open_:
        number = open_.pop()
        if number not in found:
            found.add(number)
            open_ += [makers[x] for x in names_read(graph.node[number]) if x in makers]
    return found


def _wired(
    graph: onnx.GraphProto,
    makers: dict[str, int],
    parts: Sequence[Sequence[int]],
    exits: Sequence[str],
) -> tuple[Stage, ...]:
    home = {number: k for k, part in enumerate(parts) for number in part}
    constants = {x.name for x in graph.initializer} | {
        x.values.name for x in graph.sparse_initializer
    }
    inputs = [x.name for x in graph.input if x.name not in constants]
    places = {name: place for place, name in enumerate([*inputs, *makers])}
    takes: list[set[str]] = [set() for _ in parts]
    gives: list[set[str]] = [set() for _ in parts]
    for k, part in enumerate(parts):
        for number in part:
            for name in names_read(graph.node[number]):
                if name in inputs:
                    takes[k].add(name)
                elif name in makers and home[makers[name]] != k:
                    takes[k].add(name)
                    gives[home[makers[name]]].add(name)
    return tuple(
        Stage(
            exits[k],
            tuple(part),
            tuple(sorted(takes[k], key=places.__getitem__)),
            tuple(sorted(gives[k], key=places.__getitem__)),
        )
        for k, part in enumerate(parts)
    )
