"""What leaving at each exit takes: the stages up to there, timed in turns with each other.

In this process and on one set of real inputs: it is the ratio of the exits that decides where
thresholds lie. What is told to users as a latency comes from `deploykit bench`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from deploykit.bench.timing import no_garbage_collection
from deploykit.core.measurement import Target
from deploykit.runtimes.dynamic.open import OpenStages
from deploykit.runtimes.dynamic.rules import PATIENCE, leaves
from deploykit.runtimes.dynamic.staged import run_stages
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from deploykit.core.types import OnnxArtifact
    from deploykit.load.data import Array
    from deploykit.runtimes.dynamic.record import Stages

_ROUNDS = 15
_SLICE_NS = 20_000_000
_WARM = 5


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians over rounds.

    Attributes:
        exits_ns: of a call that leaves at each exit, what it ran before and the rules included.
        whole_ns: of the network that was given; `None` where it was not asked for.
    """

    exits_ns: tuple[float, ...]
    whole_ns: float | None = None


def exit_costs(
    record: Stages,
    folder: Path,
    feeds: Mapping[str, Array],
    threads: int,
    whole: OnnxArtifact | None = None,
) -> Costs:
    """Time the way to every exit.

    Args:
        record: of all exits, written to `folder`.
        folder: of the stages.
        feeds: real inputs of one call.
        threads: of ONNX Runtime.
        whole: the network that was given, to be timed beside them.
    """
    target = Target(CPU.name, threads=threads)
    stages = OpenStages(record, folder, CPU, target)
    calls: list[Callable[[], object]] = [
        _leaving(stages, number, feeds) for number in range(len(record.stages))
    ]
    session = None
    if whole is not None:
        session = CPU.open(whole, target)
        calls.append(session.bind(feeds))
    found = interleaved(calls)
    rule = _rule_ns(stages, feeds)
    stages.close()
    if session is not None:
        session.close()
    exits = tuple(ns + rule * min(k + 1, len(record.stages) - 1) for k, ns in enumerate(found))
    count = len(record.stages)
    return Costs(exits[:count], found[count] if whole is not None else None)


def interleaved(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Nanoseconds of each call: medians of rounds in which all take turns."""
    for call in calls:
        for _ in range(_WARM):
            call()
    rounds: list[list[float]] = [[] for _ in calls]
    with no_garbage_collection():
        for number in range(_ROUNDS):
            order = range(len(calls)) if number % 2 else reversed(range(len(calls)))
            for place in order:
                rounds[place].append(_slice(calls[place]))
    return [median(one) for one in rounds]


def _slice(call: Callable[[], object]) -> float:
    taken: list[int] = []
    end = perf_counter_ns() + _SLICE_NS
    while (start := perf_counter_ns()) < end or len(taken) < 3:
        call()
        taken.append(perf_counter_ns() - start)
    return median(taken)


def _leaving(stages: OpenStages, number: int, feeds: Mapping[str, Array]) -> Callable[[], object]:
    """A call that leaves at this exit and asks no rule."""
    record = stages.record
    rows = tuple(replace(stage, threshold=None) for stage in record.stages[: number + 1])
    short = replace(record, stages=rows)
    run = stages.run[: number + 1]
    return lambda: run_stages(short, run, feeds)


def _rule_ns(stages: OpenStages, feeds: Mapping[str, Array]) -> float:
    logits = np.asarray(stages(feeds).logits, np.float32)
    rule = stages.record.rule
    said = [logits] * 2 if rule == PATIENCE else [logits]
    return interleaved([lambda: leaves(rule, 2.0 if rule == PATIENCE else 0.5, said, 2.0)])[0]
