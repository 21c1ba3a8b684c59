"""A network with exits: what it gives, and what the heads on the way make of what they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deploykit.compress.distill.graph_layers import with_layers
from deploykit.compress.distill.layers import watching
from deploykit.compress.exits.options import CONV
from deploykit.core.errors import BadInputError
from deploykit.nets.seeding import initial_weights

if TYPE_CHECKING:
    from deploykit.compress.distill.layers import Seen
    from deploykit.compress.exits.plan import ExitHead, ExitsPlan

OUTPUT, EXIT = "output", "exit"
_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Head(nn.Module):
    """From what a layer gives, [N, C, ...], to logits, [N, classes]."""

    def __init__(self, head: ExitHead, classes: int) -> None:
        super().__init__()
        self.before: nn.Module = nn.Identity()
        width = head.channels
        if head.kind == CONV:
            self.before, width = _separable(head), head.hidden
        self.norm: nn.Module = nn.LayerNorm(width) if head.normed else nn.Identity()
        self.linear = nn.Linear(width, classes)

    def forward(self, seen: Tensor) -> Tensor:
        """Shape [N, C, ...] to [N, classes]."""
        found: Tensor = self.before(seen)
        if found.dim() > 2:
            found = found.mean(dim=tuple(range(2, found.dim())))
        logits: Tensor = self.linear(self.norm(found))
        return logits


def _separable(head: ExitHead) -> nn.Sequential:
    """Depthwise with stride 2, then pointwise, as in MobileNet (arXiv:1704.04861)."""
    conv, norm = _CONVS[head.dimensions], _NORMS[head.dimensions]
    wide, hidden = head.channels, head.hidden
    return nn.Sequential(
        conv(wide, wide, 3, stride=2, padding=1, groups=wide, bias=False),
        norm(wide),
        nn.ReLU(),
        conv(wide, hidden, 1, bias=False),
        norm(hidden),
        nn.ReLU(),
    )


class MultiExit(nn.Module):
    """A network that answers at every exit.

    It gives a dictionary: "output", what the network itself gives, first, since whoever looks at
    one output looks at that, and then "exit1", "exit2" ... in the order of computation.

    Args:
        net: gives logits [N, classes]; not copied.
        plan: of it.
        seed: of the heads' initial weights.
        frozen: whether the network itself stays as it is in training: evaluation mode, and no
            gradients.
    """

    def __init__(self, net: nn.Module, plan: ExitsPlan, *, seed: int = 0, frozen: bool = False):
        super().__init__()
        self.layers = tuple(head.layer for head in plan.exits)
        self.net = with_layers(net, self.layers)
        self.plan = plan
        self.frozen = frozen
        with initial_weights(seed):
            self.heads = nn.ModuleList(Head(head, plan.classes) for head in plan.exits)
        if frozen:
            self.net.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> MultiExit:  # noqa: FBT001, FBT002  (torch's signature)
        """As torch's; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.net.eval()
        return self

    def forward(self, *inputs: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Logits [N, classes] of the network and of every exit.

        Raises:
            BadInputError: a layer gives something else than the plan says; the message says what.
        """
        with watching(self.net, self.layers, "network") as seen:
            if self.frozen:
                with torch.no_grad():
                    whole = logits_of(self.net(*inputs, **named))
            else:
                whole = logits_of(self.net(*inputs, **named))
        found = {OUTPUT: whole}
        for number, (head, planned) in enumerate(zip(self.heads, self.plan.exits, strict=True)):
            found[f"{EXIT}{number + 1}"] = head(_fitting(seen[planned.layer], planned))
        return found


def logits_of(output: object) -> Tensor:
    """What a network gave, as logits of classes.

    Raises:
        BadInputError: it is something else.
    """
    if isinstance(output, dict) and len(output) == 1:
        (output,) = output.values()
    if isinstance(output, list | tuple) and len(output) == 1:
        (output,) = output
    if not isinstance(output, Tensor):
        count = len(output) if isinstance(output, dict | list | tuple) else 0
        what = f"{count} outputs" if count else type(output).__name__
        raise BadInputError(f"exits need a network with one output, [N, classes], not {what}")
    if output.dim() != 2 or output.shape[1] < 2:
        raise BadInputError(
            f"exits need a network with an output [N, classes], not {list(output.shape)}"
        )
    return output


def _fitting(seen: Seen, planned: ExitHead) -> Tensor:
    """What the layer gave, if it is what the plan was made for."""
    if len(seen.calls) != 1:
        raise BadInputError(
            f"layer {planned.layer!r} is called {len(seen.calls)} times, and an exit reads one "
            "output: take a layer that is called once"
        )
    (found,) = seen.calls
    if found.shape[1] != planned.channels or found.dim() - 2 != planned.dimensions:
        raise BadInputError(
            f"the plan's exit behind {planned.layer} reads {planned.channels} channels in "
            f"{planned.dimensions} dimensions, and the layer gives {list(found.shape)}"
        )
    return found
