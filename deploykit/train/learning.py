"""A network and its loss as one module: what the loss has to learn is trained with the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from deploykit.train.objective import Step

if TYPE_CHECKING:
    from torch import Tensor

    from deploykit.train.objective import Loss, Target, Terms
    from deploykit.train.tasks import Task


class Learning(nn.Module):
    """What is trained.

    Args:
        net: the network.
        loss: an `nn.Module`, or any function.
        task: what the labels ask for.
    """

    def __init__(self, net: nn.Module, loss: Loss, task: Task) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.task = task

    def forward(
        self,
        inputs: tuple[Tensor, ...],
        targets: tuple[Target, ...],
        progress: float,
        items: float | None,
    ) -> Terms:
        """The terms of one part of a batch."""
        return self.loss(Step(self.net, inputs, targets, self.task, progress, items))

    def loss_state(self) -> dict[str, Tensor]:
        """What the loss has learnt; empty where it learns nothing."""
        return self.loss.state_dict() if isinstance(self.loss, nn.Module) else {}

    def load_loss_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `loss_state` gave."""
        if isinstance(self.loss, nn.Module):
            self.loss.load_state_dict(state)
