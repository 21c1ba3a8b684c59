"""Which nodes of a graph the outputs need, when some nodes are bypassed.

In-place operators make this more than a walk along arguments: what is written to memory counts
for everyone who reads that memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from deploykit.compress.prune.graph.constants import writes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule, Node

    Bypass: TypeAlias = Mapping[Node, Node]
    """What is read instead of a node."""


def owners_after(
    module: GraphModule, bases: Mapping[Node, Node], instead: Bypass
) -> dict[Node, Node]:
    """The node that owns the memory of each, once what is bypassed is not there.

    Args:
        module: of the whole graph.
        bases: `constants.memory_owners(module)`.
        instead: what is bypassed, by which node of before.
    """
    owners: dict[Node, Node] = {}
    for node in module.graph.nodes:
        if node in instead:
            owners[node] = owners[instead[node]]
        elif bases[node] is node:
            owners[node] = node
        else:
            owners[node] = owners[node.all_input_nodes[0]]
    return owners


def live_nodes(module: GraphModule, bases: Mapping[Node, Node], instead: Bypass) -> frozenset[Node]:
    """Nodes that the outputs need, or that write to an input.

    Args:
        module: of the whole graph.
        bases: `constants.memory_owners(module)`.
        instead: what is bypassed, by which node of before; a bypassed node is never live.
    """
    owners = owners_after(module, bases, instead)
    writers: dict[Node, list[Node]] = {}
    todo: list[Node] = []
    for node in module.graph.nodes:
        if node.op == "output":
            todo.append(node)
        elif writes(node) and node not in instead:
            owner = owners[node.all_input_nodes[0]]
            writers.setdefault(owner, []).append(node)
            if owner.op == "placeholder":
                todo.append(node)
    live: set[Node] = set()
    while todo:
        node = todo.pop()
        while node in instead:
            node = instead[node]
        if node in live:
            continue
        live.add(node)
        todo.extend(node.all_input_nodes)
        todo.extend(writers.get(owners[node], ()))
    return frozenset(live)


def effects(module: GraphModule, bases: Mapping[Node, Node]) -> dict[Node, tuple[Node, ...]]:
    """What each node depends on: its arguments, and the last write to the memory of each."""
    last: dict[Node, Node] = {}
    found: dict[Node, tuple[Node, ...]] = {}
    for node in module.graph.nodes:
        before = [last[bases[n]] for n in node.all_input_nodes if bases[n] in last]
        found[node] = tuple(dict.fromkeys((*node.all_input_nodes, *before)))
        if writes(node) and node.all_input_nodes:
            last[bases[node.all_input_nodes[0]]] = node
    return found
