"""The record of a distillation: who taught whom, how, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass

from deploykit.core.records import Schema
from deploykit.core.types import Option  # noqa: TC001  (likewise)

DISTILLATION = Schema("deploykit/distillation")


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
