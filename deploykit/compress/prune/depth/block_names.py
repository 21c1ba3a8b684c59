"""Names for residual blocks that users recognise and that are the same in every run.

In this order: the module whose `forward` adds, where it adds once and the branch has all of its
parameters ("layer1.0"); the module that all of the branch lies in ("body.3"); the part of the
adding module that has most of the branch's parameters ("blocks.3.attn" and "blocks.3.mlp"). What
is still ambiguous is numbered ("blocks.3#2").

Once the attention of a layer is gone, its MLP is the one block that the layer adds, and is called
"blocks.3". `blocks.found_blocks` takes such a name for what it means in the whole network.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.fx import Node

    from deploykit.compress.prune.graph.program import Program

_NOWHERE = "_empty_nn_module_stack_from_metadata_hook"
"""What `torch.export` writes for a node of a graph that it captures again, and that has none."""


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
    places = [scope_of(each.node) for each in sums]
    ways: tuple[list[str], ...] = (
        [
            name if _is_whole(program, each, name) else ""
            for name, each in zip(places, sums, strict=True)
        ],
        ["" if (name := _common(each)) in places else name for each in sums],
        [_heaviest(program, each) for each in sums],
    )
    for way in ways:
        wanted = ["" if names[number] else name for number, name in enumerate(way)]
        # A name that this way gives to two blocks is left to the next way, for both.
        count = Counter(wanted)
        for number, name in enumerate(wanted):
            if name and count[name] == 1 and name not in names:
                names[number] = name
    return _numbered(names, [name or "block" for name in ways[-1]])


def scope_of(node: Node) -> str:
    """The innermost module that a node belongs to; "" for the network itself, or unknown."""
    path = ""
    for entry in (node.meta.get("nn_module_stack") or {}).values():
        path = entry[0] if isinstance(entry, tuple) else str(entry)
    return "" if path == _NOWHERE else path.removeprefix("L['self']").strip(".")


def _is_whole(program: Program, each: Sum, name: str) -> bool:
    """Whether the branch has all parameters of a module."""
    used = {str(node.target) for node in each.branch if node.op == "get_attr"}
    inside = (n for n in program.tensors if n.startswith(f"{name}.") and n in program.names)
    return all(n in used for n in inside)


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


def _heaviest(program: Program, each: Sum) -> str:
    """The module below the adding one that has most of the branch's parameters."""
    weights: Counter[str] = Counter()
    names = [str(node.target) for node in each.branch if node.op == "get_attr"]
    homes = {name: name.split(".")[:-1] for name in names if name in program.names}
    place = scope_of(each.node)
    depth = len(place.split(".") if place else _prefix(list(homes.values()))) + 1
    for name, home in homes.items():
        weights[".".join(home[:depth])] += prod(program.tensors[name].shape)
    return min(weights, key=lambda name: (-weights[name], name), default="")


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
