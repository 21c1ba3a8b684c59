"""Removed blocks in the user's own class: `nn.Identity` stands where a whole module has gone.

Only where a block is all of a module (a ResNet's block, both halves of a transformer's layer) can
the class say it so. One half of a layer cannot: the class adds what it calls, and an identity adds
its input. Whether the class with its identities computes what the cut graph does is judged like
every other change of it (`class_check`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule

    from deploykit.compress.prune.graph.program import Program


def blocks_as_modules(program: Program, small: GraphModule) -> tuple[str, ...]:
    """The outermost modules of which a cut has left no parameter.

    Args:
        program: of the whole network.
        small: the cut graph.
    """
    left = {str(node.target) for node in small.graph.nodes if node.op == "get_attr"}
    learnt = {name for name, _ in program.module.named_parameters(remove_duplicate=False)}
    own = {name for name in program.tensors if name in program.names and name in learnt}
    alive = {parent for name in own & left for parent in _parents(name)}
    found: set[str] = set()
    for name in sorted(own - left):
        outermost = next((parent for parent in _parents(name) if parent not in alive), None)
        if outermost is not None:
            found.add(outermost)
    return tuple(sorted(found))


def _parents(name: str) -> list[str]:
    """The modules that a parameter lies in, the outermost first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def put_identities(module: nn.Module, names: tuple[str, ...]) -> None:
    """Replace modules by `nn.Identity`; changes the module."""
    from torch import nn

    for name in names:
        module.set_submodule(name, nn.Identity())
