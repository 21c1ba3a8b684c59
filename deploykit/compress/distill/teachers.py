"""Networks that only answer: copies in evaluation mode, without gradients."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule

from deploykit.compress.distill.options import AUTO
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

_MOST_NAMED = 3
_SWITCHES = {
    "dropout": 2, "dropout_": 2, "native_dropout": 2, "alpha_dropout": 2, "feature_dropout": 2,
    "batch_norm": 5, "cudnn_batch_norm": 5, "native_batch_norm": 5, "_native_batch_norm_legit": 5,
}  # fmt: skip
"""Operators of captured graphs, and the place of the argument that says it is training."""
_NEVER_TRAINING = "_native_batch_norm_legit_no_training"


def at_rest(teacher: nn.Module) -> nn.Module:
    """A copy that answers alike each time: in evaluation mode, frozen.

    Raises:
        BadInputError: it stays in training mode, or was exported in it.
    """
    copy = deepcopy(teacher).requires_grad_(requires_grad=False).eval()
    if parts := training_parts(copy):
        raise BadInputError(
            f"the teacher stays in training mode in {named(parts)}, where its answers change from "
            "call to call; let its eval() reach them, or export it after eval()"
        )
    return copy


def answer(teacher: nn.Module, inputs: tuple[Tensor, ...], precision: str = AUTO) -> object:
    """What a teacher says, without gradients; it moves to where the inputs are.

    Args:
        teacher: from `at_rest`.
        inputs: those that the student sees.
        precision: "float32", "bfloat16", or "auto" for what is in force.
    """
    device = inputs[0].device
    teacher.to(device)  # nothing moves where it is in place
    mode: AbstractContextManager[object] = nullcontext()
    if precision != AUTO:
        mode = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    # Not inference_mode: its tensors cannot be kept for the student's backward pass.
    with torch.no_grad(), mode:
        return teacher(*inputs)


def is_fixed(module: nn.Module) -> bool:
    """Whether it is, or holds, a captured graph that stays in the mode it was captured in.

    (Graphs that pruning makes follow `train()` and `eval()`.)
    """
    return bool(_switches(module))


def training_parts(module: nn.Module) -> list[str]:
    """Names of the parts that behave as in training."""
    parts = [name or "the network itself" for name, part in module.named_modules() if part.training]
    return [*parts, *(name for name, on in _switches(module).items() if on)]


def _switches(module: nn.Module) -> dict[str, bool]:
    """Operators that are always in training, or never, by name."""
    found = {}
    graphs = [part.graph for part in module.modules() if isinstance(part, GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes if node.op == "call_function"):
        name = str(getattr(node.target, "__name__", node.target)).partition(".")[0]
        place = _SWITCHES.get(name, -1)
        said = node.args[place] if len(node.args) > place > 0 else node.kwargs.get("training")
        if isinstance(said, bool) and place > 0:
            found[node.name] = said
        elif name == _NEVER_TRAINING:
            found[node.name] = False
    return found


def named(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
