"""Take whole residual blocks out of a graph: what a block adds to its stream is not added any more.

    y = u + f(u)    becomes    y = u

Everything that only f needs goes with it: nodes, weights, and what f writes to in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from deploykit.compress.prune.analysis.rules.call import packet_name
from deploykit.compress.prune.depth.blocks import Block, blocks_of, found_blocks
from deploykit.compress.prune.graph.constants import memory_owners, writes
from deploykit.compress.prune.graph.liveness import live_nodes
from deploykit.compress.prune.graph.program import Program
from deploykit.compress.prune.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch.fx import Graph, GraphModule, Node
    from torch.fx.node import Argument

    from deploykit.compress.prune.graph.liveness import Bypass

_ONCE_IS_ENOUGH = frozenset({"relu", "relu_"})
"""Activations that change nothing where they were applied before."""


def without_blocks(program: Program, names: Iterable[str]) -> Program:
    """The network without residual blocks, on the same tensors. What is given is not changed.

    An activation behind the sum stays; a ReLU that meets the output of a ReLU goes, since it
    would do nothing.

    Args:
        program: of the network.
        names: of `blocks_of(program)`, or of a module that has parameters of one block alone.

    Raises:
        BadInputError: there is no such block; the message has the nearest name.
    """
    return bypassed(program, found_blocks(blocks_of(program), names))[0]


@dataclass(frozen=True, slots=True, eq=False)
class Shallow:
    """A network without a plan's blocks.

    Attributes:
        program: what is left.
        plan: what the plan cuts of that; cuts of tensors that went with a block are left out.
        nodes: of `program`, by those of the whole graph that are still there.
        skipped: sums of the whole graph, and what is read instead of each.
    """

    program: Program
    plan: Plan
    nodes: Mapping[Node, Node]
    skipped: Mapping[Node, Node]


def after_blocks(program: Program, plan: Plan) -> Shallow:
    """The first half of a cut: blocks. The second half cuts channels of what is left.

    Raises:
        BadInputError: the network has no such block.
    """
    if not plan.blocks:
        return Shallow(program, plan, {node: node for node in program.module.graph.nodes}, {})
    blocks = found_blocks(blocks_of(program), plan.blocks)
    rest, nodes = bypassed(program, blocks)
    went = program.tensors.keys() - rest.tensors.keys()
    cuts = tuple(cut for cut in plan.cuts if cut.parameter not in went)
    skipped = {block.sum: block.kept for block in blocks}
    return Shallow(rest, Plan(cuts, (), plan.heads), nodes, skipped)


def bypassed(program: Program, blocks: Iterable[Block]) -> tuple[Program, dict[Node, Node]]:
    """`without_blocks` for blocks of this very program, and its nodes by those of the whole one."""
    from torch import fx

    instead = _with_idle_activations({block.sum: block.kept for block in blocks})
    graph, nodes = _rebuilt(program.module, memory_owners(program.module), instead)
    module = fx.GraphModule(program.module, graph)
    names = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    tensors = {name: tensor for name, tensor in program.tensors.items() if name in names}
    shapes = {nodes[old]: shape for old, shape in program.shapes.items() if old in nodes}
    went = program.tensors.keys() - names
    return Program(module, shapes, tensors, program.names - went), nodes


def _with_idle_activations(instead: Bypass) -> Bypass:
    """Leave out as well a ReLU behind a removed sum, where the stream has just been through one."""
    found = dict(instead)
    for node, kept in instead.items():
        source = kept
        while source in found:
            source = found[source]
        users = list(node.users)
        if (
            len(users) == 1
            and packet_name(users[0]) in _ONCE_IS_ENOUGH
            and packet_name(source) in _ONCE_IS_ENOUGH
        ):
            found[users[0]] = node
    return found


def _rebuilt(
    module: GraphModule, bases: Mapping[Node, Node], instead: Bypass
) -> tuple[Graph, dict[Node, Node]]:
    """A copy of the graph without the bypassed nodes and what only they needed."""
    import torch
    from torch import fx
    from torch.fx.node import map_arg

    live = live_nodes(module, bases, instead)
    copies = _to_copy(module, bases, instead, live)
    graph = fx.Graph()
    new: dict[Node, Node] = {}
    for node in module.graph.nodes:
        if node in instead:
            if instead[node] not in new:  # both in the branch of a block that goes as well
                continue
            new[node] = new[instead[node]]
            if node in copies:
                # The sum was memory of its own, which something writes to; the stream is not.
                new[node] = graph.call_function(torch.ops.aten.clone.default, (new[node],))
                new[node].meta = dict(node.meta)
        elif node.op == "output":
            graph.output(cast("Argument", map_arg(node.args[0], lambda n: new[n])))
        elif node.op == "placeholder" or node in live:
            new[node] = graph.node_copy(node, lambda n: new[n])
    return graph, new


def _to_copy(
    module: GraphModule, bases: Mapping[Node, Node], instead: Bypass, live: frozenset[Node]
) -> set[Node]:
    """Bypassed sums whose memory was their own and is written to later."""
    position = {node: number for number, node in enumerate(module.graph.nodes)}
    written = [node for node in module.graph.nodes if node in live and writes(node)]
    return {
        node
        for node in instead
        if bases[node] is not bases[instead[node]]
        and any(
            bases[w] is bases[node] and position[w] > position[node] and w not in instead
            for w in written
        )
    }
