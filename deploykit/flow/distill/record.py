"""The record of a distillation: who taught whom, how, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass

from deploykit.core.records import Schema
from deploykit.core.types import Option  # noqa: TC001  (likewise)
from deploykit.flow.prune.record import Size  # noqa: TC001  (likewise)

DISTILLATION = Schema("deploykit/distillation")


@dataclass(frozen=True, slots=True)
class Smaller:
    """How a student was made of its teacher.

    Attributes:
        width: share of the channels of every group that was to stay.
        depth: share of the residual blocks that was to stay.
        align: kept channels are a multiple of it.
        before: the teacher.
        after: the student.
        blocks: residual blocks of the teacher that could be told apart.
        left_out: those that went, by name.
        groups: of coupled channels in what these leave.
        whole: groups that kept all their channels, and why none could go; "" where one step
            of channels is all there is.
        channels: of the groups that may be cut, all together.
        kept: of those, how many stay: what width was reached.
        anew: whether it began with initial weights; else with the teacher's.
    """

    width: float
    depth: float
    align: int
    before: Size
    after: Size
    blocks: int
    left_out: tuple[str, ...]
    groups: int
    whole: Mapping[str, str]
    channels: int
    kept: int
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Distillation:
    """One distillation, whole.

    Attributes:
        student: its source, by name.
        teacher: likewise.
        student_parameters: how many it has.
        teacher_parameters: likewise.
        options: weight and temperature of the soft targets.
        training: every option of the training.
        epochs: that were trained.
        best_epoch: whose weights these are, counted from 1; 0 where the start was never surpassed.
        seconds: of all epochs.
        advice: what may be wrong with the pair, in sentences.
        smaller: how the student was made of the teacher; `None` where it is a network of its own.
    """

    student: str
    teacher: str
    student_parameters: int
    teacher_parameters: int
    options: Mapping[str, Option]
    training: Mapping[str, Option]
    epochs: int
    best_epoch: int
    seconds: float
    advice: tuple[str, ...] = ()
    smaller: Smaller | None = None
