"""Soft targets: a student learns the probabilities that its teacher gives, beside the labels.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015
(arXiv:1503.02531), section 2.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor, nn

from deploykit.core.errors import BadInputError
from deploykit.train.losses import check_classes

if TYPE_CHECKING:
    from deploykit.compress.distill.options import SoftTargets
    from deploykit.train.losses import Loss


def soft_target_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far a student's softened probabilities are from its teacher's.

    T² KL(softmax(taught / T) ‖ softmax(logits / T)), the mean of the batch. The factor T² keeps
    the size of its gradients whatever the temperature is, so that a weight means the same.

    Args:
        logits: of the student, shape [N, classes].
        taught: of the teacher, the same shape.
        temperature: T, above 0.
    """
    softened = F.log_softmax(logits.float() / temperature, dim=1)
    targets = F.log_softmax(taught.float() / temperature, dim=1)
    divergence = F.kl_div(softened, targets, reduction="batchmean", log_target=True)
    return divergence * temperature**2


class Taught:
    """The loss of a student: (1 - w) · cross-entropy with the labels + w · soft targets.

    The teacher sees the very batch that the student sees, augmented alike, and gives it in
    evaluation mode, without gradients and in the precision that training runs in.

    Args:
        teacher: gives logits of shape [N, classes]; copied, never changed.
        options: weight and temperature.
        label_smoothing: of the labels' part.

    Raises:
        BadInputError: when called: the two do not give the same classes, or there are no labels
            that fit them.
    """

    def __init__(
        self, teacher: nn.Module, options: SoftTargets, label_smoothing: float = 0.0
    ) -> None:
        self._teacher = deepcopy(teacher).eval().requires_grad_(requires_grad=False)
        self._options = options
        self._label_smoothing = label_smoothing

    def __call__(self, net: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """The loss of one batch, a scalar."""
        logits = net(*inputs)
        check_classes(logits, labels)
        taught = self._taught(inputs)
        if taught.shape != logits.shape:
            theirs, ours = list(taught.shape[1:]), list(logits.shape[1:])
            raise BadInputError(
                f"the teacher gives {theirs} for a sample and the network {ours}; a teacher has "
                "to know the same classes"
            )
        hard = F.cross_entropy(logits.float(), labels.long(), label_smoothing=self._label_smoothing)
        weight = self._options.weight
        soft = soft_target_loss(logits, taught, self._options.temperature)
        return (1 - weight) * hard + weight * soft

    def _taught(self, inputs: tuple[Tensor, ...]) -> Tensor:
        # Nothing moves where everything is in place already.
        self._teacher.to(inputs[0].device)
        with torch.no_grad():
            found: Tensor = self._teacher(*inputs)
        return found


def taught(teacher: nn.Module, options: SoftTargets, label_smoothing: float = 0.0) -> Loss:
    """`Taught` as a `Loss`; plain cross-entropy is a weight of 0."""
    return Taught(teacher, options, label_smoothing)
