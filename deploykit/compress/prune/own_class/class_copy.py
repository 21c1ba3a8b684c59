"""A network of the user's own class with the tensors of the cut graph."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from deploykit.compress.prune.graph.program import attribute
from deploykit.compress.prune.own_class.attributes import changes_of, repair
from deploykit.compress.prune.own_class.block_modules import blocks_as_modules, put_identities

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import Tensor, nn
    from torch.fx import GraphModule

    from deploykit.compress.prune.graph.program import Program
    from deploykit.core.types import Model


def smaller(
    model: Model,
    program: Program,
    small: GraphModule,
    *,
    rest: Callable[[Tensor], Tensor] | None = None,
    bold: Collection[str] = (),
    folded: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of the network with the tensors of the cut graph, its attributes repaired.

    Args:
        model: the network; not changed.
        program: of it.
        small: the cut graph; the copy shares its tensors.
        rest: what becomes of tensors that the graph does not use; copied where not given.
        bold: see `attributes.repair`.
        folded: tensors that take the place of the graph's (see `fold_scale`).

    Raises:
        Exception: whatever the class raises when it is copied.
    """
    module = model.module
    memo: dict[int, object] = {}
    for name in {str(n.target) for n in small.graph.nodes if n.op == "get_attr"}:
        old = tensor_of(module, name)
        if old is not None:
            memo[id(old)] = (folded or {}).get(name, attribute(small, name))
    if rest is not None:
        for tensor in (*module.parameters(), *module.buffers()):
            memo.setdefault(id(tensor), rest(tensor))
    # Wherever the module holds a tensor, tied or in a list, its copy holds the cut one; nothing
    # is copied only to be thrown away.
    made = copy.deepcopy(module, memo)
    put_identities(made, blocks_as_modules(program, small))
    repair(made, changes_of(program.module.graph, small.graph), bold)
    return made


def tensor_of(module: nn.Module, name: str) -> Tensor | None:
    """A tensor of a module by its qualified name; `None` where it has none."""
    import torch

    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, torch.Tensor) else None
