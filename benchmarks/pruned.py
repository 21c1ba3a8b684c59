"""What is asked of a network after it was pruned, the same of everybody's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.outcome import Trial, reason

if TYPE_CHECKING:
    from torch import Tensor, nn


def parameters(module: nn.Module) -> int:
    """Elements of all its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def held(module: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def run(module: nn.Module, images: Tensor, shape: object, trial: Trial) -> Trial:
    """Forward and backward.

    Args:
        module: pruned.
        images: a batch.
        shape: of the outputs before.
        trial: what is known of it.
    """
    try:
        output = module(images)
        if output.shape != shape:
            return replace(trial, why=f"its output is {tuple(output.shape)} now")
        trial = replace(trial, forward=True)
        output.square().mean().backward()
    except Exception as error:  # noqa: BLE001  (a broken network raises anything)
        return replace(trial, why=reason(error))
    if all(parameter.grad is None for parameter in module.parameters()):
        return replace(trial, why="no parameter has a gradient")
    return replace(trial, backward=True)
