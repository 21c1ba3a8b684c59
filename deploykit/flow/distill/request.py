"""What a distillation is asked for."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (read at run time by dataclass tools)
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003  (likewise)

from deploykit.core.errors import BadInputError
from deploykit.core.types import Option  # noqa: TC001  (likewise)
from deploykit.load.sources import Source  # noqa: TC001  (likewise)


@dataclass(frozen=True, slots=True)
class DistillRequest:
    """Everything that a distillation is asked for. What stands here wins over a recipe.

    Attributes:
        student: a PyTorch source or a recipe; weights that are there are where it starts from.
            Where `smaller` says something, the teacher itself.
        teacher: likewise, with weights. A recipe without them is trained first.
        out: the folder to make.
        others: more teachers.
        changes: fields of `DistillOptions`.
        smaller: fields of `SmallerOptions`: the student is a smaller copy of the (first) teacher.
        tuning: fields of `TrainOptions` that win over those of the student's recipe.
        anew: whether the student starts from what its source builds, weights or not.
        train: data to learn from; "" takes that of the student's recipe.
        unlabelled: more of it, whose labels, if there are any, are not looked at; "" is none.
        val: data that the best epoch is chosen by; "" takes that of the student's recipe.
        eval: data that only reports; likewise.
        metric: how the data is scored, or "" for the usual one of its labels.
        overwrite: whether a student at `out` may be replaced.
        as_stage: whether a recipe asks for it, so that the student's recipe may have stages.
    """

    student: Source
    teacher: Source
    out: Path
    others: tuple[Source, ...] = ()
    changes: Mapping[str, Option] = field(default_factory=dict)
    smaller: Mapping[str, Option] = field(default_factory=dict)
    tuning: Mapping[str, Option] = field(default_factory=dict)
    anew: bool = False
    train: str = ""
    unlabelled: str = ""
    val: str = ""
    eval: str = ""
    metric: str = ""
    overwrite: bool = False
    as_stage: bool = False

    def __post_init__(self) -> None:
        """Refuse a student that is there already and shall be made."""
        if self.smaller and self.student != self.teacher:
            raise BadInputError(
                f"{self.student.text} cannot be a smaller copy of {self.teacher.text}: give a "
                f"STUDENT, or {' and '.join(self.smaller)}, not both"
            )

    @property
    def teachers(self) -> tuple[Source, ...]:
        """All of them, in the order of their shares."""
        return (self.teacher, *self.others)
