"""DIST: a student learns how its teacher orders classes and samples, not the very probabilities.

Pearson's correlation lets scale and shift go free, which a small student cannot match exactly.

Source: Huang, You, Wang, Qian and Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS
2022 (arXiv:2205.10536), section 3; with T² as the authors' own code has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

if TYPE_CHECKING:
    from torch import Tensor


def relation_losses(logits: Tensor, taught: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The relations between classes and those within classes, both times T².

    Args:
        logits: of the student, shape [N, classes]; 3 classes and 2 rows or more, since two
            numbers are always correlated wholly.
        taught: of the teacher, the same shape.
        temperature: T, above 0.

    Returns:
        Two scalars, 0 where the two agree: the mean over rows of 1 - correlation across the
        classes, and the mean over classes of 1 - correlation across the rows.
    """
    ours = F.softmax(logits.float() / temperature, dim=1)
    theirs = F.softmax(taught.float() / temperature, dim=1)
    between, within = _distance(ours, theirs, 1), _distance(ours, theirs, 0)
    return between * temperature**2, within * temperature**2


def _distance(ours: Tensor, theirs: Tensor, dim: int) -> Tensor:
    """1 - Pearson's correlation along a dimension, the mean over the other."""
    ours, theirs = (one - one.mean(dim=dim, keepdim=True) for one in (ours, theirs))
    return 1 - F.cosine_similarity(ours, theirs, dim=dim).mean()
