"""Residual blocks of a network, found in its graph.

A block is a sum `u + v` of equal shapes whose `v` is computed from `u` and parameters alone: every
path from the network's inputs into `v` leads through `u`. Without the block the stream goes on
as `u`. Where the shortcut is projected (a strided stage of a ResNet), no summand leads to the
other, and there is no block.

Branches in parallel, `u + f(u) + g(u)`, are two blocks; a block may lie inside another's branch
and goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.cost import macs_by_node
from deploykit.compress.prune.analysis.rules.call import argument, packet_name
from deploykit.compress.prune.depth.block_names import Sum, names_of
from deploykit.compress.prune.graph.constants import memory_owners
from deploykit.compress.prune.graph.liveness import effects, live_nodes
from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch.fx import Node

    from deploykit.compress.prune.graph.program import Program

_ADDS = frozenset({"add", "add_"})


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A residual branch and the sum that joins it to its stream.

    Attributes:
        name: of the module that it is, or of the part of one; unique and the same in every run.
        sum: the node that adds.
        kept: the summand that is left without the block.
        stream: the node that the branch starts from: `kept`, or what a parallel branch was
            added to.
        branch: nodes between `stream` and `sum`.
        parameters: names of learnt tensors that nothing else reads.
        elements: of those parameters, all together.
        macs: multiply-accumulates of one sample in what goes with the block.
        inside: names of blocks whose branch it is part of; it goes with each of them.
    """

    name: str
    sum: Node
    kept: Node
    stream: Node
    branch: frozenset[Node]
    parameters: tuple[str, ...]
    elements: int
    macs: float
    inside: tuple[str, ...] = ()


def blocks_of(program: Program) -> tuple[Block, ...]:
    """The residual blocks of a network, in the order of computation.

    A branch without any multiply-accumulates is none: that is how gates and norms by hand look.
    """
    bases = memory_owners(program.module)
    whole = live_nodes(program.module, bases, {})
    costs = macs_by_node(program)
    learnt = {name for name, _ in program.module.named_parameters(remove_duplicate=False)}
    found: list[Block] = []
    sums = _sums(program, costs)
    for each, name in zip(sums, names_of(program, sums), strict=True):
        left = live_nodes(program.module, bases, {each.node: each.kept})
        gone = whole - left
        used = {str(n.target) for n in left if n.op == "get_attr"}
        names = sorted({str(n.target) for n in gone if n.op == "get_attr"} & learnt - used)
        found.append(
            Block(
                name=name,
                sum=each.node,
                kept=each.kept,
                stream=each.stream,
                branch=each.branch,
                parameters=tuple(names),
                elements=sum(prod(program.tensors[name].shape) for name in names),
                macs=sum(costs.get(node, 0.0) for node in gone),
            )
        )
    return tuple(
        replace(block, inside=tuple(other.name for other in found if block.sum in other.branch))
        for block in found
    )


def found_blocks(blocks: Iterable[Block], names: Iterable[str]) -> tuple[Block, ...]:
    """Blocks by their names, each once, in the order of computation.

    A module in which one block is left, apart from those that were named before, names it too:
    so a plan that was made in turns, on what earlier turns left, fits the whole network.

    Raises:
        BadInputError: no block has this name; the message has the nearest.
    """
    known = tuple(blocks)
    by_name = {block.name: block for block in known}
    chosen: set[str] = set()
    for name in names:
        left = [b for b in known if b.name not in chosen and not chosen & {*b.inside}]
        below = [b for b in left if any(p.startswith(f"{name}.") for p in b.parameters)]
        outer = [b for b in below if not {*b.inside} & {other.name for other in below}]
        if name in chosen:
            raise BadInputError(f"{name} is named twice among the residual blocks that go")
        if name in by_name:
            chosen.add(name)
        elif len(outer) == 1:
            chosen.add(outer[0].name)
        else:
            raise BadInputError(_unknown(name, outer, by_name))
    return tuple(block for block in known if block.name in chosen)


def _unknown(name: str, below: list[Block], by_name: Mapping[str, Block]) -> str:
    if not by_name:
        return f"{name} is no residual block: the network has none that can go"
    if below:
        return f"{name} is {len(below)} residual blocks: {', '.join(b.name for b in below)}"
    return f"{name} is no residual block of the network{nearest(name, by_name)}"


def _sums(program: Program, costs: Mapping[Node, float]) -> list[Sum]:
    """Sums of a stream and what is computed from it."""
    tensors = frozenset(program.shapes)  # sizes, which lead to the inputs too, carry no data
    before = {
        node: tuple(n for n in others if n in tensors)
        for node, others in effects(program.module, memory_owners(program.module)).items()
    }
    streams: dict[Node, Node] = {}
    found: list[Sum] = []
    for node in program.module.graph.nodes:
        if not _adds_equals(program, node):
            continue
        one, other = node.all_input_nodes
        for kept, branch_end in ((one, other), (other, one)):
            stream, branch = _reached(before, kept, branch_end, streams.get(kept))
            if stream is not None and any(n in costs for n in branch):
                streams[node] = stream
                found.append(Sum(node, kept, stream, branch))
                break
    return found


def _adds_equals(program: Program, node: Node) -> bool:
    """Whether it is a plain sum of two different tensors of one shape."""
    if node.op != "call_function" or packet_name(node) not in _ADDS:
        return False
    inputs = node.all_input_nodes
    if len(inputs) != 2 or argument(node, "alpha") not in (None, 1):
        return False
    shapes = [program.shapes.get(n) for n in (node, *inputs)]
    return shapes[0] is not None and shapes[0] == shapes[1] == shapes[2]


def _reached(
    before: Mapping[Node, tuple[Node, ...]], kept: Node, end: Node, parallel: Node | None
) -> tuple[Node | None, frozenset[Node]]:
    """The stream that leads to `end` alone, and the nodes from there to it."""
    for stream in (kept, parallel):
        if stream is not None:
            branch = _between(before, stream, end)
            if branch is not None:
                return stream, branch
    return None, frozenset()


def _between(
    before: Mapping[Node, tuple[Node, ...]], stream: Node, end: Node
) -> frozenset[Node] | None:
    """What lies between; `None` where `end` needs an input of the network, or not the stream."""
    seen: set[Node] = set()
    todo = [end]
    reached = False
    while todo:
        node = todo.pop()
        if node is stream:
            reached = True
        elif node not in seen:
            if node.op == "placeholder":
                return None
            seen.add(node)
            todo.extend(before[node])
    return frozenset(seen) if reached else None
