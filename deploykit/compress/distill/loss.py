"""The loss of a student: what the labels say, what its teachers say, and what they see on the way.

    loss = (1 - w) · task + w · teacher + λ_hint · Σ hints + λ_attention · Σ attention

The teachers see the very batch that the student sees, augmented alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from deploykit.compress.distill.features import Features
from deploykit.compress.distill.graph_layers import with_layers
from deploykit.compress.distill.layers import unwrapped, watching
from deploykit.compress.distill.outputs import head_terms, heads_of
from deploykit.compress.distill.teachers import answer, at_rest, is_fixed
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from deploykit.compress.distill.layers import Seen
    from deploykit.compress.distill.options import DistillOptions
    from deploykit.train.objective import Step, Term


class Taught(nn.Module):
    """A `deploykit.train.objective.Loss`; its parameters are the projections of hints alone.

    The teachers are kept out of `parameters()` and of the state dictionary.
    """

    def __init__(
        self, teachers: Sequence[nn.Module], options: DistillOptions, features: Features | None
    ) -> None:
        super().__init__()
        self.teachers = tuple(teachers)  # a tuple is no submodule
        self._options = options
        self._shares = options.teacher_shares or (1 / len(teachers),) * len(teachers)
        self.features = features

    def forward(self, step: Step) -> Mapping[str, Term]:
        """The terms of one part of a batch.

        Raises:
            BadInputError: student and teachers do not fit together; the message says how.
        """
        check_trains(step.net)
        options, features = self._options, self.features
        ours = features.of_student if features is not None else []
        theirs = features.of_teacher if features is not None else []
        with watching(step.net, ours, "student") as own:
            outputs = step.net(*step.inputs)
        with watching(self.teachers[0], theirs, "teacher") as taught:
            answers = [answer(one, step.inputs, options.teacher_precision) for one in self.teachers]
        weight = options.weight_at(step.progress)
        temperature = options.temperature_at(step.progress)
        found = {name: term.times(1 - weight) for name, term in step.labelled(outputs).items()}
        for head in heads_of(outputs, answers, step.task):
            terms = head_terms(head, step.targets, options, self._shares, temperature)
            found |= {name: term.times(weight) for name, term in terms.items()}
        return found | (features(own, taught) if features is not None else {})


def taught(
    teacher: nn.Module | Sequence[nn.Module],
    options: DistillOptions,
    *,
    student: nn.Module | None = None,
    inputs: tuple[Tensor, ...] = (),
) -> Taught:
    """The loss of a student of one teacher or several.

    Args:
        teacher: gives what the student shall give; copied, never changed.
        options: what is taught, and how much.
        student: for hints and attention, whose shapes are tried; not changed. One that is a
            captured graph is trained as `with_layers` gives it.
        inputs: of both, a few samples; likewise.

    Raises:
        BadInputError: a teacher that stays in training mode, more shares than teachers, or layers
            that are not there or cannot be compared.
    """
    teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    shares = options.teacher_shares
    if shares and len(shares) != len(teachers):
        raise BadInputError(
            f"teacher_shares has {len(shares)} numbers for {len(teachers)} teachers: one for each"
        )
    resting = [at_rest(one) for one in teachers]
    if not options.hints and not options.attention:
        return Taught(resting, options, None)
    if student is None or not inputs:
        raise BadInputError("hints and attention need the student and inputs to try both with")
    features = Features(options)
    resting[0] = with_layers(resting[0], features.of_teacher)
    with torch.no_grad():
        own = _seen(at_rest(with_layers(student, features.of_student)), features.of_student, inputs)
        with watching(resting[0], features.of_teacher, "teacher") as theirs:
            resting[0](*inputs)
    features.fit(own, theirs)
    return Taught(resting, options, features)


def _seen(student: nn.Module, layers: list[str], inputs: tuple[Tensor, ...]) -> Mapping[str, Seen]:
    with watching(student, layers, "student") as own:
        student(*inputs)
    return own


def check_trains(student: nn.Module) -> None:
    """Refuse a student that does not train.

    Raises:
        BadInputError: it is in evaluation mode, or knows no other.
    """
    if is_fixed(student):
        raise BadInputError(
            "the student is an exported program, which stays in the mode that it was exported "
            "in: name the network that it was made of"
        )
    if not unwrapped(student).training:
        raise BadInputError(
            "the student is in evaluation mode, where norms and dropout do not train; let its "
            "train() do what torch's does"
        )
