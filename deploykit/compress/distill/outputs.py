"""Losses between what a student and its teachers give: which outputs, as what, by which method.

Every output that the task teaches has a teacher of its own. Those of classes are compared row by
row, a row being a sample, a token or a pixel; those of numbers as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from deploykit.compress.distill.decoupled import decoupled_losses
from deploykit.compress.distill.options import AUTO, DECOUPLED, MSE, RELATIONS, SOFT
from deploykit.compress.distill.relations import relation_losses
from deploykit.compress.distill.soft_targets import mixed_logits, soft_target_loss
from deploykit.core.errors import BadInputError
from deploykit.load.calls import named_outputs
from deploykit.train.objective import Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deploykit.compress.distill.options import DistillOptions
    from deploykit.train.objective import Target
    from deploykit.train.tasks import Task

_OF_CLASSES = ("cross-entropy", "tokens", "binary")
_FEWEST_CLASSES = 3
_PARTS = ("target", "others", "unlabelled")
"""Of decoupled distillation."""


@dataclass(frozen=True, slots=True)
class Head:
    """One output of the student, and what its teachers give there.

    Attributes:
        name: of the term: "teacher", or "teacher NAME" of several outputs.
        output: the student's, shape [n, ...].
        taught: each teacher's, of the same shape.
        loss: the task's own for this output, such as "tokens"; "" of a user's.
        weight: what the task's own loss counts.
        number: the place of the output.
    """

    name: str
    output: Tensor
    taught: tuple[Tensor, ...]
    loss: str
    weight: float
    number: int


def heads_of(outputs: object, answers: Sequence[object], task: Task) -> list[Head]:
    """The outputs that have teachers: as many as the task has losses, all with a user's own.

    A student may have more (auxiliary heads while it is trained): those have labels alone.

    Args:
        outputs: what the student gave.
        answers: what each teacher gave for the same inputs.
        task: of the student.

    Raises:
        BadInputError: student and teacher do not tell the same classes apart.
    """
    ours = named_outputs(outputs)
    theirs = [named_outputs(answer) for answer in answers]
    count = len(ours) if task.own is not None else len(task.losses)
    count = min(count, *(len(one) for one in theirs))
    found = []
    for number, (name, output) in enumerate(list(ours.items())[:count]):
        taught = tuple(one.get(name, list(one.values())[number]) for one in theirs)
        for answer in taught:
            _check_alike(output, answer)
        short = "" if count == 1 else name.removeprefix("output_")
        loss, weight = ("", 1.0)
        if task.own is None:
            loss, weight = task.losses[number], task.weights[number]
        found.append(Head(f"teacher {short}".rstrip(), output, taught, loss, weight, number))
    return found


def _check_alike(output: Tensor, taught: Tensor) -> None:
    if taught.shape != output.shape:
        theirs, ours = list(taught.shape[1:]), list(output.shape[1:])
        raise BadInputError(
            f"the teacher gives {theirs} for a sample and the student {ours}; a teacher has to "
            "know the same classes"
        )


def method_of(options: DistillOptions, head: Head) -> str:
    """The method that an output is compared by.

    Raises:
        BadInputError: it is for classes, and these are none, or too few.
    """
    classes = head.loss in _OF_CLASSES
    if options.method == AUTO:
        return SOFT if classes else MSE
    if options.method == MSE:
        return MSE
    if head.loss and not classes:
        raise BadInputError(
            f"method {options.method} compares classes, and this output is of numbers (loss "
            f'"{head.loss}"); take mse'
        )
    width = 2 if head.loss == "binary" else head.output.shape[_class_dim(head)]
    if options.method in {DECOUPLED, RELATIONS} and width < _FEWEST_CLASSES:
        raise BadInputError(
            f"method {options.method} compares classes with each other, which takes "
            f"{_FEWEST_CLASSES} or more, not {width}; take {SOFT}"
        )
    return options.method


def head_terms(
    head: Head,
    targets: tuple[Target, ...],
    options: DistillOptions,
    shares: Sequence[float],
    temperature: float,
) -> dict[str, Term]:
    """What the teachers say of one output, each part by name.

    Rows that a label calls padding are left out: those with a negative class number in a sample
    that has other labels. A sample without any is taught by its teachers alone.

    Args:
        head: the output.
        targets: the labels, of which `Step` tells.
        options: the method and its weights.
        shares: of each teacher.
        temperature: T.

    Raises:
        BadInputError: the method does not fit the output or the labels.
    """
    method = method_of(options, head)
    if method == MSE:
        mean = sum(share * one.float() for share, one in zip(shares, head.taught, strict=True))
        assert not isinstance(mean, int), "one teacher at least"
        return {head.name: Term(F.mse_loss(head.output.float(), mean), head.weight)}
    rows = _rows_of(head, targets, shares, temperature)
    if method == SOFT:
        found = soft_target_loss(rows.logits, rows.taught, temperature)
        return {head.name: Term(found, head.weight)}
    if method == RELATIONS:
        between, within = relation_losses(rows.logits, rows.taught, temperature)
        return {
            f"{head.name} between classes": Term(between, head.weight * options.inter),
            f"{head.name} within classes": Term(within, head.weight * options.intra),
        }
    parts = _decoupled(rows, targets, temperature)
    weights = (options.alpha, options.beta, 1.0)
    return {
        f"{head.name} {name}": Term(part, head.weight * weight)
        for name, part, weight in zip(_PARTS, parts, weights, strict=True)
    }


@dataclass(frozen=True, slots=True)
class _Rows:
    """One output row by row: logits of shape [rows, classes] and labels of shape [rows]."""

    logits: Tensor
    taught: Tensor
    labels: tuple[Tensor | None, ...]


def _rows_of(
    head: Head, targets: tuple[Target, ...], shares: Sequence[float], temperature: float
) -> _Rows:
    logits = _rows(head.output, head)
    taught = mixed_logits([_rows(one, head) for one in head.taught], shares, temperature)
    labels = tuple(_row_labels(target.labels, head, len(logits)) for target in targets)
    first = labels[0]
    left_out = None if first is None else _padding(first, len(head.output))
    if left_out is None:
        return _Rows(logits, taught, labels)
    keep = ~left_out
    kept = tuple(None if one is None else one[keep] for one in labels)
    return _Rows(logits[keep], taught[keep], kept)


def _decoupled(rows: _Rows, targets: tuple[Target, ...], temperature: float) -> list[Tensor]:
    """Both parts of rows with labels, and soft targets of those without, each over all rows."""
    parts = [torch.zeros((), device=rows.logits.device) for _ in _PARTS]
    for target, labels in zip(targets, rows.labels, strict=True):
        if labels is None:
            raise BadInputError(
                f"method {DECOUPLED} needs a class number for each row of an output, not labels "
                f"of shape {list(target.labels.shape)}; take {SOFT}"
            )
        there = labels >= 0
        both = decoupled_losses(rows.logits, rows.taught, labels.clamp(min=0), temperature)
        known = [torch.where(there, one, 0).sum() for one in both]
        plain = soft_target_loss(rows.logits[~there], rows.taught[~there], temperature)
        found = (*known, plain * int((~there).sum()))
        parts = [old + target.share * new for old, new in zip(parts, found, strict=True)]
    return [part / max(1, len(rows.logits)) for part in parts]


def _class_dim(head: Head) -> int:
    return -1 if head.loss == "tokens" else 1


def _rows(output: Tensor, head: Head) -> Tensor:
    """Logits of shape [rows, classes]; a yes or no has two classes, 0 and its logit."""
    if head.loss == "binary":
        plain = output.reshape(-1)
        return torch.stack([torch.zeros_like(plain), plain], dim=1)
    return output.movedim(_class_dim(head), -1).flatten(0, -2)


def _row_labels(labels: Tensor, head: Head, rows: int) -> Tensor | None:
    """Class numbers of each row; `None` where the labels are no class numbers of this output."""
    if labels.is_floating_point() or head.loss not in {"cross-entropy", "tokens", ""}:
        return None
    if labels.numel() == rows:
        return labels.reshape(-1).long().to(head.output.device)
    if labels.dim() == 2 and len(labels) == rows and head.number < labels.shape[1]:
        return labels[:, head.number].long().to(head.output.device)  # a column for each output
    return None


def _padding(labels: Tensor, samples: int) -> Tensor | None:
    """Which rows have no label in samples that have others; `None` where a sample is one row."""
    if len(labels) == samples:
        return None
    there = (labels >= 0).reshape(samples, -1)
    return (~there & there.any(dim=1, keepdim=True)).reshape(-1)
