"""The options of distillation. Standard library only: help reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from deploykit.core.errors import BadInputError, nearest

AUTO, SOFT, DECOUPLED, RELATIONS, MSE = "auto", "soft-targets", "decoupled", "dist", "mse"
METHODS = (AUTO, SOFT, DECOUPLED, RELATIONS, MSE)
COURSES = ("linear", "cosine")
TEACHER_PRECISIONS = (AUTO, "float32", "bfloat16")
_SHARES_ROUND = 1e-6


@dataclass(frozen=True, slots=True)
class DistillOptions:
    """What a student learns from its teachers beside the labels.

    loss = (1 - w) · task + w · teacher + λ_hint · Σ hints + λ_attention · Σ attention

    Attributes:
        weight: w, of the teachers, from 0 to 1; the labels have the rest. By default they have
            little: of models/student from models/teacher 86.10, 87.92 and 88.26 % of the
            validation data were right with w of 0.5, 0.9 and 1 after three epochs of a fifth of
            the images, and 89.72 and 90.48 % with 0.5 and 0.9 after one epoch of all (one seed
            each). 1 is for teachers that are always to be believed.
        temperature: T, that the logits of all are divided by, above 0. Higher ones tell more of
            how the teacher sees the wrong classes.
        method: "soft-targets" (Hinton, Vinyals and Dean, 2015), "decoupled" (Zhao et al., CVPR
            2022), "dist" (Huang et al., NeurIPS 2022), "mse" of the outputs as they are; "auto"
            takes soft targets for classes and mse for everything else.
        alpha: of "decoupled": how much the target's probability counts.
        beta: of "decoupled": how much those of the other classes among themselves count.
        inter: of "dist": how much the relations between a sample's classes count.
        intra: of "dist": how much those between a class's samples count.
        hints: pairs of layers whose outputs shall be alike, "student.layer=teacher.layer", or one
            name for both (Romero et al., ICLR 2015). Of several teachers the first is meant.
        hint_weight: λ of each hint.
        attention: pairs of layers that shall look at the same places (Zagoruyko and Komodakis,
            ICLR 2017).
        attention_weight: λ of each of them; the authors' own is 1000.
        teacher_shares: of several teachers in the mean of their probabilities, above 0, 1 in all;
            none: equal ones.
        weight_end: that the weight goes to over the training; `None`: it stays.
        temperature_end: likewise.
        course: how they go there: "linear", or "cosine", slowly at both ends.
        teacher_precision: "float32" or "bfloat16" (mixed precision); "auto" is training's own.
    """

    weight: float = 0.9
    temperature: float = 4.0
    method: str = AUTO
    alpha: float = 1.0
    beta: float = 8.0
    inter: float = 1.0
    intra: float = 1.0
    hints: tuple[str, ...] = ()
    hint_weight: float = 1.0
    attention: tuple[str, ...] = ()
    attention_weight: float = 1000.0
    teacher_shares: tuple[float, ...] = ()
    weight_end: float | None = None
    temperature_end: float | None = None
    course: str = COURSES[0]
    teacher_precision: str = AUTO

    def __post_init__(self) -> None:
        """Refuse what is no mixture, and what would have no effect."""
        for weight in (self.weight, self.weight_end):
            if weight is not None and not 0 <= weight <= 1:
                raise BadInputError(f"the teacher's weight must be from 0 to 1, not {weight:g}")
        for temperature in (self.temperature, self.temperature_end):
            if temperature is not None and not 0 < temperature < math.inf:
                raise BadInputError(f"temperature must be above 0, not {temperature:g}")
        for name in ("alpha", "beta", "inter", "intra", "hint_weight", "attention_weight"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise BadInputError(f"{name} must be 0 or more, not {value:g}")
        choices = {"method": METHODS, "course": COURSES, "teacher_precision": TEACHER_PRECISIONS}
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise BadInputError(f"{name} {value!r} is unknown{nearest(value, known)}")
        self._check_effects()
        for text in (*self.hints, *self.attention):
            layers_of(text)
        if self.teacher_shares:
            _check_shares(self.teacher_shares)

    def _check_effects(self) -> None:
        default = {field.name: field.default for field in fields(self)}
        idle = {
            ("alpha", "beta"): (self.method == DECOUPLED, f"say method {DECOUPLED}"),
            ("inter", "intra"): (self.method == RELATIONS, f"say method {RELATIONS}"),
            ("hint_weight",): (self.hints, "name layers with hints"),
            ("attention_weight",): (self.attention, "name layers with attention"),
            ("temperature", "temperature_end"): (self.method != MSE, "mse takes outputs as is"),
        }
        for names, (used, mend) in idle.items():
            for name in names:
                if not used and getattr(self, name) != default[name]:
                    raise BadInputError(f"leave out {name}: it has no effect here ({mend})")

    def weight_at(self, progress: float) -> float:
        """The weight w when this share of the training is done, 0 to 1."""
        return self._on_the_way(self.weight, self.weight_end, progress)

    def temperature_at(self, progress: float) -> float:
        """The temperature T when this share of the training is done, 0 to 1."""
        return self._on_the_way(self.temperature, self.temperature_end, progress)

    def _on_the_way(self, start: float, end: float | None, progress: float) -> float:
        if end is None:
            return start
        gone = progress if self.course == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return start + (end - start) * gone


def layers_of(text: str) -> tuple[str, str]:
    """The student's layer and the teacher's in "student.layer=teacher.layer", or "layer".

    Raises:
        BadInputError: a name is missing.
    """
    student, equals, teacher = text.partition("=")
    names = (student.strip(), teacher.strip() if equals else student.strip())
    if not all(names) or "=" in teacher:
        raise BadInputError(f"{text!r} names no pair of layers: write STUDENT.LAYER=TEACHER.LAYER")
    return names


def _check_shares(shares: tuple[float, ...]) -> None:
    for share in shares:
        if not 0 < share <= 1:
            raise BadInputError(f"teacher_shares must be above 0 and at most 1, not {share:g}")
    if abs(sum(shares) - 1) > _SHARES_ROUND:
        raise BadInputError(f"teacher_shares must be 1 in all, not {sum(shares):g}")
