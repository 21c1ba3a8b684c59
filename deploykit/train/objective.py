"""What a loss is: named terms, each a value with its weight, of one batch on its way.

    loss = Σ weight · value = task + λ · regularisation + ...

Every term is logged by itself, so that a run that goes wrong says which part of it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deploykit.train.tasks import Task


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a loss.

    Attributes:
        value: a scalar, the mean over the samples of the batch.
        weight: λ, what it counts in the sum.
    """

    value: Tensor
    weight: float = 1.0

    def times(self, factor: float) -> Term:
        """The same part, counting so much more."""
        return Term(self.value, self.weight * factor)


Terms: TypeAlias = Mapping[str, Term]


@dataclass(frozen=True, slots=True)
class Target:
    """Labels, and how much of a sample they are: mixed samples have two.

    Attributes:
        labels: shape [n] or [n, ...].
        share: 0 to 1; those of one batch add up to 1.
    """

    labels: Tensor
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """What a loss is asked about: one part of a batch, and where the run stands.

    Attributes:
        net: what is trained, in training mode; call it once.
        inputs: augmented; each of shape [n, ...].
        targets: one, or two where samples were mixed.
        task: what the labels ask for.
        progress: the share of all steps that is done, 0 to below 1: what schedules go by.
        items: how many labels the sums of this part are divided by: all of the batch's, in every
            process and part, shared out equally, so that parts with fewer labels count less.
    """

    net: nn.Module
    inputs: tuple[Tensor, ...]
    targets: tuple[Target, ...]
    task: Task
    progress: float = 0.0
    items: float | None = None

    def labelled(self, outputs: object) -> dict[str, Term]:
        """The task's own terms: what the labels say of the network's outputs.

        Args:
            outputs: what `net` gave for `inputs`.

        Raises:
            BadInputError: outputs and labels do not fit together, or the task.
        """
        found: dict[str, Term] = {}
        for target in self.targets:
            for name, term in self.task.terms(outputs, target.labels, self.items).items():
                value = term.value * target.share
                before = found.get(name)
                found[name] = Term(value if before is None else before.value + value, term.weight)
        return found


Loss: TypeAlias = Callable[[Step], Terms]
"""Gives the terms of one part of a batch.

An `nn.Module` with parameters of its own (projections of hints) is trained beside the network and
kept in its checkpoints; it is no part of the result.
"""


def labels_alone(step: Step) -> Terms:
    """The loss of training without a teacher: the task's."""
    return step.labelled(step.net(*step.inputs))


def total(terms: Terms) -> Tensor:
    """Σ weight · value, a scalar.

    Args:
        terms: one at least.
    """
    first, *rest = terms.values()
    found = first.value * first.weight
    for term in rest:
        found = found + term.value * term.weight
    return found
