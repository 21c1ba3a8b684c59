"""All exits learn together: from the labels, and from what the whole network makes of them.

    loss = task(whole) + Σ w_k · ((1 - d) · task(exit k) + d · T² KL(whole ‖ exit k))

The whole network is the teacher of its exits and learns nothing from them by that term (Phuong and
Lampert, ICCV 2019, section 3; the factor T² is Hinton's, arXiv:1503.02531).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.compress.distill.soft_targets import soft_target_loss
from deploykit.compress.exits.network import OUTPUT
from deploykit.core.errors import BadInputError
from deploykit.train.objective import Step, Term
from deploykit.train.tasks import Task, check_classes

if TYPE_CHECKING:
    from torch import Tensor

    from deploykit.compress.exits.options import ExitsOptions
    from deploykit.train.objective import Loss


def joint_loss(options: ExitsOptions) -> Loss:
    """The loss of a `MultiExit`."""

    def loss(step: Step) -> dict[str, Term]:
        outputs = named(step.net(*step.inputs))
        whole = outputs.pop(OUTPUT)
        found = {} if options.frozen else dict(step.labelled(whole))
        for number, (name, logits) in enumerate(outputs.items()):
            weight = options.weight_of(number)
            hard, soft = weight * (1 - options.distill), weight * options.distill
            if hard:
                terms = step.labelled(logits).items()
                found |= {f"{name} {text}": term.times(hard) for text, term in terms}
            if soft:
                value = soft_target_loss(logits, whole.detach(), options.temperature)
                found[f"{name} taught"] = Term(value, soft)
        return found

    return loss


@dataclass(frozen=True, slots=True)
class EveryExit(Task):
    """Classes, told apart by every exit: epochs are chosen by the mean of their accuracies."""

    def score(self, outputs: object, labels: Tensor) -> tuple[Tensor, int]:
        """Right answers, the mean over exits, and how many samples have labels."""
        found = named(outputs)
        for logits in found.values():
            check_classes(logits, labels)
        there = labels >= 0
        hits = [((one.argmax(1) == labels) & there).sum() for one in found.values()]
        return sum(hits[1:], hits[0]).double() / len(hits), int(there.sum())


def named(outputs: object) -> dict[str, Tensor]:
    """What a `MultiExit` gave.

    Raises:
        BadInputError: it is something else.
    """
    if not isinstance(outputs, Mapping) or OUTPUT not in outputs:
        raise BadInputError(
            f"exits learn together in a network that has some, not from {type(outputs).__name__}"
        )
    return dict(outputs)
