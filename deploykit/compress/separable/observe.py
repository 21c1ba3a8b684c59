"""Which layers of a network are called, in which order, and how large what they give is."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from deploykit.load.calls import Arguments


def places_of(module: nn.Module, names: Iterable[str], call: Arguments) -> dict[str, int]:
    """Places that each layer computes for one sample, over all of its calls.

    Args:
        module: in evaluation mode.
        names: of layers with outputs of shape [N, O, ...].
        call: one batch.

    Returns:
        By name, in the order of the first calls; layers that are never called are not in it.
    """
    import torch

    found: dict[str, int] = {}

    def count(name: str, output: Tensor) -> None:
        found[name] = found.get(name, 0) + prod(output.shape[2:])

    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: count(name, output)
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            module(*call.args, **call.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
