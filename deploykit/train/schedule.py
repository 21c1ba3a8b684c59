"""The learning rate as a function of the step: no state, so a run can go on anywhere."""

from __future__ import annotations

from math import cos, pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploykit.train.options import TrainOptions


def learning_rate(options: TrainOptions, step: int, steps: int) -> float:
    """The rate of one step.

    Args:
        options: the shape of the schedule and its peak.
        step: from 0 to `steps - 1`.
        steps: of the whole run.

    Returns:
        Above 0 at every step: the straight lines would meet 0 one step before the first and
        one after the last.
    """
    rising = round(options.warmup * steps)
    if step < rising:
        return options.learning_rate * (step + 1) / (rising + 1)
    share = (step - rising + 1) / (steps - rising + 1)
    if options.schedule == "cosine":
        return options.learning_rate * (1 + cos(pi * share)) / 2
    return options.learning_rate * (1 - share)
