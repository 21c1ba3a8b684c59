"""Network and plan -> the network with its layers split. What was given is never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from deploykit.compress.separable.graph_layers import with_layers
from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from torch import nn

    from deploykit.compress.separable.plan import SeparablePlan, SplitLayer
    from deploykit.compress.separable.split import Conv


def converted(module: nn.Module, plan: SeparablePlan) -> nn.Module:
    """A copy in which each of the plan's convolutions is the split nearest to it over its weights.

    It is in the mode that the module is in, and of its class.

    Raises:
        BadInputError: the plan does not fit the network; the message says where.
    """
    from deploykit.compress.separable.split import split

    made = with_layers(module)
    for layer in plan.layers:
        put(made, layer.name, split(conv_of(made, layer), layer.rank))
    return made


def conv_of(module: nn.Module, layer: SplitLayer) -> Conv:
    """The convolution that a plan names.

    Raises:
        BadInputError: it is not there, is no convolution, or has another kernel.
    """
    from torch import nn

    named = dict(module.named_modules(remove_duplicate=False))
    found = named.get(layer.name)
    if type(found) not in {nn.Conv1d, nn.Conv2d, nn.Conv3d}:
        convs = [name for name, one in named.items() if hasattr(one, "kernel_size")]
        kind = "not there" if found is None else f"a {type(found).__name__}"
        hint = nearest(layer.name, convs) if found is None else ""
        raise BadInputError(f"the plan splits {layer.name}, which is {kind}{hint}")
    conv = cast("Conv", found)
    if tuple(conv.weight.shape) != tuple(layer.weight):
        raise BadInputError(
            f"the plan splits {layer.name} with a kernel of {list(layer.weight)}, and it has "
            f"{list(conv.weight.shape)}"
        )
    return conv


def put(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module where another one is, under all names that lead to that one."""
    old = module.get_submodule(name)
    every = module.named_modules(remove_duplicate=False)
    for place in [place for place, one in every if one is old]:
        parent, _, own = place.rpartition(".")
        setattr(module.get_submodule(parent), own, new)
