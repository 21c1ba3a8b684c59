"""What may be wrong with a pair of networks, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.check.accuracy import POINTS
from deploykit.flow.distill.pair import training_copy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from deploykit.check.accuracy import Accuracy
    from deploykit.flow.distill.pair import Pair
    from deploykit.flow.distill.request import DistillRequest


def still_parts(student: nn.Module) -> tuple[str, ...]:
    """A sentence about parts that stay in evaluation mode while it is trained."""
    from deploykit.compress.distill.teachers import named

    parts = [name for name, part in training_copy(student).named_modules() if not part.training]
    if not parts:
        return ()
    text = (
        f"the student keeps {named(parts)} in evaluation mode while it is trained, as its train() "
        "says: norms keep their statistics there, and dropout does nothing"
    )
    return (text,)


def doubts(
    request: DistillRequest, pair: Pair, taught: Sequence[Accuracy], start: Accuracy | None
) -> tuple[str, ...]:
    """What may be wrong with the pair, before it is trained.

    Args:
        request: names the teachers.
        pair: of networks.
        taught: each teacher's figure on the validation data.
        start: the student's, where it knows something already.
    """
    found = list(pair.resized)
    size = parameters(pair.student.module)
    for number, (was, teacher) in enumerate(zip(taught, pair.teachers, strict=True)):
        which = "the teacher" if not request.others else f"teacher {number + 1}"
        if start is not None and _is_better(start, was):
            found.append(
                f"{which} has {_text(was)} on {was.data}, the student {_text(start)} already: are "
                "the two in each other's place?"
            )
        if (theirs := parameters(teacher.module)) < size:
            found.append(f"{which} has {theirs} parameters, the student {size}: more")
    return tuple(found)


def behind(taught: Accuracy, learnt: Accuracy) -> tuple[str, ...]:
    """A sentence about a teacher that its student has left behind."""
    if not _is_better(learnt, taught):
        return ()
    text = (
        f"the student has {_text(learnt)} on {learnt.data}, its teacher {_text(taught)}: a better "
        "teacher may give a better student"
    )
    return (text,)


def worse(start: Accuracy | None, learnt: Accuracy) -> tuple[str, ...]:
    """A sentence about a student that knew more before it was taught."""
    if start is None or not _is_better(start, learnt):
        return ()
    text = (
        f"the student has {_text(learnt)} on {learnt.data}, and had {_text(start)} before it was "
        "taught: lower the learning rate, or train for longer"
    )
    return (text,)


def _is_better(one: Accuracy, other: Accuracy) -> bool:
    return one.value > other.value if one.metric.higher_is_better else one.value < other.value


def _text(found: Accuracy) -> str:
    if found.is_share:
        return f"{POINTS * found.value:.2f} % {found.metric.name}"
    return f"{found.metric.name} {found.value:.4g}"


def parameters(module: nn.Module) -> int:
    """How many numbers it has to learn."""
    return sum(parameter.numel() for parameter in module.parameters())
