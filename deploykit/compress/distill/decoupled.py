"""Decoupled distillation: the target's probability and those of the others are taught apart.

In soft targets, KD = TCKD + (1 - p_t) NCKD (eq. 6): the surer a teacher is, the less it tells of
the other classes. Here both parts have weights of their own: DKD = alpha TCKD + beta NCKD (eq. 7).

Source: Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022
(arXiv:2203.08679), section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

if TYPE_CHECKING:
    from torch import Tensor


def decoupled_losses(
    logits: Tensor, taught: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of each row, both times T², as the authors scale them.

    All is computed from logarithms, so that a teacher as sure as float32 allows does no harm.

    Args:
        logits: of the student, shape [N, classes], 3 classes or more.
        taught: of the teacher, the same shape.
        labels: the targets, whole numbers of shape [N], none of them negative.
        temperature: T, above 0.

    Returns:
        Two tensors of shape [N]: TCKD, of the target against all others, and NCKD, of the
        others among themselves.
    """
    student, teacher = logits.float() / temperature, taught.float() / temperature
    ours, theirs = _target_or_not(student, labels), _target_or_not(teacher, labels)
    target = (theirs.exp() * (theirs - ours)).sum(dim=1)
    ours, theirs = (F.log_softmax(_others(one, labels), dim=1) for one in (student, teacher))
    others = (theirs.exp() * (theirs - ours)).sum(dim=1)
    return target * temperature**2, others * temperature**2


def _target_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Logarithms of [p_t, 1 - p_t], shape [N, 2]."""
    whole = torch.logsumexp(logits, dim=1)
    target = logits.gather(1, labels[:, None])[:, 0] - whole
    rest = torch.logsumexp(_others(logits, labels), dim=1) - whole
    return torch.stack([target, rest], dim=1)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits without the targets', shape [N, classes - 1]."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device)[None, :]
    return logits.gather(1, places + (places >= labels[:, None]))
