"""Names for residual blocks that users recognise and that are the same in every run.

In this order: the module whose `forward` adds, where it adds once ("layer1.0"); the module that
all of the branch lies in ("body.3"); the part of the adding module that has most of the branch's
parameters ("blocks.3.attn" and "blocks.3.mlp"). What is still ambiguous is numbered
("blocks.3#2").

A graph that was cut has lost the modules that its nodes came from. There the parameters' own
names say where most of the branch's parameters lie ("layer1.0.conv2").
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.fx import Node

    from deploykit.compress.prune.graph import Program


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """A sum of a stream and of what is computed from the stream.

    Attributes:
        node: that adds.
        kept: its summand from the stream.
        stream: where the branch starts.
        branch: nodes between `stream` and `node`.
    """

    node: Node
    kept: Node
    stream: Node
    branch: frozenset[Node]


def names_of(program: Program, sums: Sequence[Sum]) -> list[str]:
    """A unique name for each."""
    names = [""] * len(sums)
    scoped = any(scope_of(node) for node in program.module.graph.nodes)
    ways: tuple[Callable[[Sum], str], ...] = (
        (lambda s: scope_of(s.node), _common, lambda s: _heaviest(program, s))
        if scoped
        else (lambda s: _heaviest(program, s, scoped=False),)
    )
    for way in ways:
        wanted = [way(each) if not names[n] else "" for n, each in enumerate(sums)]
        # A name that this way gives to two blocks is left to the next way, for both.
        count = Counter(wanted)
        places = {scope_of(each.node) for each in sums}
        for number, name in enumerate(wanted):
            shared = way is not ways[0] and scoped and name in places and name != ""
            if name and count[name] == 1 and name not in names and not shared:
                names[number] = name
    return _numbered(names, [ways[-1](each) or "block" for each in sums])


def scope_of(node: Node) -> str:
    """The innermost module that a node belongs to; "" for the network itself, or unknown."""
    path = ""
    for entry in (node.meta.get("nn_module_stack") or {}).values():
        path = entry[0] if isinstance(entry, tuple) else str(entry)
    return path.removeprefix("L['self']").strip(".")


def _common(each: Sum) -> str:
    """The innermost module that all of the branch's calls lie in."""
    scopes = [scope_of(n).split(".") for n in each.branch if n.op == "call_function"]
    return ".".join(_prefix(scopes))


def _prefix(paths: Sequence[Sequence[str]]) -> list[str]:
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _heaviest(program: Program, each: Sum, *, scoped: bool = True) -> str:
    """The module below the adding one in which most of the branch's parameters are read."""
    weights: Counter[str] = Counter()
    homes: dict[Node, list[str]] = {}
    for node in each.branch:
        if node.op == "get_attr" and str(node.target) in program.names:
            homes[node] = (
                _prefix([scope_of(u).split(".") for u in node.users if u in each.branch])
                if scoped
                else str(node.target).split(".")[:-1]
            )
    shared = scope_of(each.node).split(".") if scoped else _prefix(list(homes.values()))
    depth = len([part for part in shared if part]) + 1
    for node, home in homes.items():
        weights[".".join(home[:depth])] += prod(program.tensors[str(node.target)].shape)
    if not weights:
        return ""
    return min(weights, key=lambda name: (-weights[name], name))


def _numbered(names: Sequence[str], bases: Sequence[str]) -> list[str]:
    """Numbers from 1 for those without a name."""
    count: Counter[str] = Counter()
    result = list(names)
    for number, name in enumerate(names):
        if not name:
            base = bases[number]
            while True:
                count[base] += 1
                candidate = f"{base}#{count[base]}"
                if candidate not in result:
                    break
            result[number] = candidate
    return result
