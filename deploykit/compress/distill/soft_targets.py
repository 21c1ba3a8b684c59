"""Soft targets: a student learns the probabilities that its teacher gives, beside the labels.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015
(arXiv:1503.02531), section 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


def soft_target_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far a student's softened probabilities are from its teacher's.

    T² KL(softmax(taught / T) ‖ softmax(logits / T)), the mean of the rows. The factor T² keeps
    the size of its gradients whatever the temperature is, so that a weight means the same.

    Args:
        logits: of the student, shape [N, classes].
        taught: of the teacher, the same shape.
        temperature: T, above 0.
    """
    softened = F.log_softmax(logits.float() / temperature, dim=1)
    targets = F.log_softmax(taught.float() / temperature, dim=1)
    divergence = F.kl_div(softened, targets, reduction="sum", log_target=True)
    return divergence * temperature**2 / max(1, len(logits))


def mixed_logits(answers: Sequence[Tensor], shares: Sequence[float], temperature: float) -> Tensor:
    """Logits of one teacher that stands for several.

    Softened by this temperature they are the mean of the teachers' softened probabilities (as in
    section 1 of the source, where the large model is an ensemble).

    Args:
        answers: logits of each teacher, each of shape [N, classes].
        shares: of each, 1 in all.
        temperature: T, above 0.
    """
    if len(answers) == 1:
        return answers[0].float()
    weighted = [
        F.log_softmax(answer.float() / temperature, dim=1) + math.log(share)
        for answer, share in zip(answers, shares, strict=True)
    ]
    return torch.logsumexp(torch.stack(weighted), dim=0) * temperature
