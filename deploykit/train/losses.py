"""What is minimised."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor, nn

from deploykit.core.errors import BadInputError

Loss: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]
"""Called with the network, a batch's inputs and its labels; gives the mean loss, a scalar."""


def cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """The loss of classifiers, computed in float32 whatever the network runs in.

    Args:
        label_smoothing: share of the target that is spread over all classes, 0 to below 1.
    """

    def loss(net: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        logits = net(*inputs)
        check_classes(logits, labels)
        return F.cross_entropy(logits.float(), labels.long(), label_smoothing=label_smoothing)

    return loss


def check_classes(logits: object, labels: Tensor) -> None:
    """Refuse outputs that are no logits of classes, and labels that are none of these classes.

    Args:
        logits: what a network gave; they must have the shape [N, classes].
        labels: they must be whole numbers of shape [N].

    Raises:
        BadInputError: what is wrong, with the shape or the value.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInputError(
            f"training takes a network with one output of shape [N, classes], not {what}"
        )
    if labels.dim() != 1 or labels.is_floating_point():
        raise BadInputError(
            "training takes whole-number labels of shape [N], not "
            f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise BadInputError(
            f"labels go from {low} to {high} and the network has {logits.shape[1]} classes"
        )
