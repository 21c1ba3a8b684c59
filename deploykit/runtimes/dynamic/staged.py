"""Run stages one after the other, with only those samples that have not left yet. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from deploykit.runtimes.dynamic.rules import PATIENCE, leaves, leaves_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from deploykit.runtimes.base import Array
    from deploykit.runtimes.dynamic.record import Stages
    from deploykit.runtimes.dynamic.rules import Floats

    RunStage = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network with exits says of a batch.

    Attributes:
        logits: [N, classes], of the exit at which each sample left.
        exits: [N], its number, from 0.
    """

    logits: Array
    exits: NDArray[np.int64]


def run_stages(record: Stages, run: Sequence[RunStage], feeds: Mapping[str, Array]) -> Answer:
    """One batch through as many stages as it needs.

    Args:
        record: how the stages belong together.
        run: each stage: inputs by name -> outputs by name.
        feeds: inputs of the network by name.
    """
    first = record.stages[0]
    found = run[0]({one.name: feeds[one.name] for one in first.takes})
    if len(found[first.exit]) == 1:
        return _alone(record, run, feeds, found)
    live = dict(feeds)
    axes = {one.name: one.axis for stage in record.stages for one in (*stage.takes, *stage.gives)}
    rows = exits = logits = None
    said: list[Floats] = []  # of the samples that are left, at each exit so far; for patience
    last = len(record.stages) - 1
    for number, stage in enumerate(record.stages):
        if number:
            found = run[number]({one.name: live[one.name] for one in stage.takes})
        here = found[stage.exit]
        if rows is None:
            rows, logits = np.arange(len(here)), np.empty_like(here)
            exits = np.empty(len(here), np.int64)
        assert logits is not None
        assert exits is not None
        said.append(cast("Floats", here))
        gone = np.full(len(here), number == last)
        if number < last and stage.threshold is not None:
            gone = leaves(record.rule, stage.threshold, said, stage.temperature)
        logits[rows[gone]], exits[rows[gone]] = here[gone], number
        if gone.all():
            break
        live |= {one.name: found[one.name] for one in stage.gives}
        if gone.any():
            stay = ~gone
            rows = rows[stay]
            said = [np.compress(stay, one, axis=0) for one in said]
            for name in live.keys() & axes.keys():
                axis = axes[name]
                if axis is not None:
                    live[name] = np.compress(stay, live[name], axis=axis)
        if record.rule != PATIENCE:
            said.clear()
    assert logits is not None
    assert exits is not None
    return Answer(logits, exits)


def _alone(
    record: Stages,
    run: Sequence[RunStage],
    feeds: Mapping[str, Array],
    found: Mapping[str, Array],
) -> Answer:
    """One sample: it leaves or goes on as a whole, and nothing is taken apart.

    Between two stages lie a few microseconds of Python: of a network that takes half a millisecond,
    the masks of a batch would be a tenth.

    Args:
        record: how the stages belong together.
        run: each stage.
        feeds: inputs of the network.
        found: what the first stage gave.
    """
    live = dict(feeds)
    said: list[list[float]] = []
    last = len(record.stages) - 1
    for number, stage in enumerate(record.stages):
        if number:
            found = run[number]({one.name: live[one.name] for one in stage.takes})
        here = found[stage.exit]
        if number == last:
            break
        if record.rule == PATIENCE:
            said.append(here[0].tolist())
        if stage.threshold is not None:
            seen = said or [here[0].tolist()]
            if leaves_alone(record.rule, stage.threshold, seen, stage.temperature):
                break
        live.update(found)
    return Answer(here, np.array([number]))
