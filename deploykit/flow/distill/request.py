"""What a distillation is asked for."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (read at run time by dataclass tools)
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003  (likewise)

from deploykit.core.types import Option  # noqa: TC001  (likewise)
from deploykit.load.sources import Source  # noqa: TC001  (likewise)


@dataclass(frozen=True, slots=True)
class DistillRequest:
    """Everything that a distillation is asked for. What stands here wins over a recipe.

    Attributes:
        student: a PyTorch source or a recipe; weights that are there are where it starts from.
        teacher: likewise, with weights. A recipe without them is trained first.
        out: the folder to make.
        changes: fields of `SoftTargets`.
        tuning: fields of `TrainOptions` that win over those of the student's recipe.
        anew: whether the student starts from what its source builds, weights or not.
        train: data to learn from; "" takes that of the student's recipe.
        val: data that the best epoch is chosen by; likewise.
        eval: data that only reports; likewise.
        metric: how the data is scored, or "" for the usual one of its labels.
        overwrite: whether a student at `out` may be replaced.
    """

    student: Source
    teacher: Source
    out: Path
    changes: Mapping[str, Option] = field(default_factory=dict)
    tuning: Mapping[str, Option] = field(default_factory=dict)
    anew: bool = False
    train: str = ""
    val: str = ""
    eval: str = ""
    metric: str = ""
    overwrite: bool = False
