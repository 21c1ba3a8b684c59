"""Who is measured when, and when it is enough.

All cases are measured in rounds: in each round every case that needs more samples takes one short
turn, in an order that is drawn anew, so that drift of the machine (heat, clock, other load) hits
all alike. One case runs at a time; the others are asleep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deploykit.bench.statistics import MEDIAN_CONFIDENCE, Quantile, quantile
from deploykit.core.errors import DeploykitError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

    from deploykit.core.progress import Progress


@dataclass(frozen=True, slots=True)
class StopRules:
    """When a case has enough samples: time, count and precision are all met, or no budget is left.

    Attributes:
        min_time_ns: the least time inside timed calls.
        min_count: the fewest calls.
        precision: the interval of the median is within this share of it on both sides.
        budget_ns: the most time inside timed calls.
        slice_ns: length of a turn; at least one call.
        lead_in_ns: calls at the beginning of a turn that are not kept, since caches hold what the
            others left; a call that is longer than `lead_in_most_ns` needs none.
        lead_in_most_ns: see above.
    """

    min_time_ns: int = 1_000_000_000
    min_count: int = 100
    precision: float = 0.01
    budget_ns: int = 30_000_000_000
    slice_ns: int = 100_000_000
    lead_in_ns: int = 10_000_000
    lead_in_most_ns: int = 50_000_000


class Lane(Protocol):
    """One measuring process of one case."""

    @property
    def case(self) -> int:
        """Which case it measures."""

    @property
    def process(self) -> int:
        """Which of the case's processes it is."""

    @property
    def call_ns(self) -> int:
        """About how long a call takes."""

    def take(self, duration_ns: int, lead_in_ns: int) -> Sequence[int]:
        """Latencies of one turn, in nanoseconds.

        Raises:
            DeploykitError: the process failed.
        """


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of one lane.

    Attributes:
        case: which case.
        process: which of its processes.
        round: from 0.
        order: position within the round, from 0.
        latency_ns: in the order they were taken.
    """

    case: int
    process: int
    round: int
    order: int
    latency_ns: tuple[int, ...]

    @property
    def block(self) -> int:
        """A number that only this process and round has."""
        return block_number(self.process, self.round)


@dataclass(slots=True)
class Tally:
    """What a case has so far."""

    turns: list[Turn] = field(default_factory=list)
    time_ns: int = 0
    count: int = 0
    error: DeploykitError | None = None
    settled: bool = False
    spent: bool = False
    check_at: int = 0

    def add(self, turn: Turn) -> None:
        """Keep one turn."""
        self.turns.append(turn)
        self.time_ns += sum(turn.latency_ns)
        self.count += len(turn.latency_ns)

    def median(self) -> Quantile | None:
        """With its interval, so far."""
        return median_of(self.turns)

    @property
    def running(self) -> bool:
        """Whether it needs more samples and can give them."""
        return self.error is None and not self.settled and not self.spent


def block_number(process: int, round_: int) -> int:
    """A number for a process and a round."""
    return process << 32 | round_


def median_of(turns: Iterable[Turn]) -> Quantile | None:
    """The median of all samples, with its interval."""
    latency_ns, block = columns(turns)
    return quantile(latency_ns, block, 0.5, MEDIAN_CONFIDENCE) if len(latency_ns) else None


def columns(turns: Iterable[Turn]) -> tuple[np.ndarray, np.ndarray]:
    """All latencies and their blocks, each of shape [n]."""
    kept = list(turns)
    latency_ns = np.array([ns for turn in kept for ns in turn.latency_ns], dtype=np.int64)
    sizes = [len(turn.latency_ns) for turn in kept]
    return latency_ns, np.repeat(np.array([t.block for t in kept], dtype=np.int64), sizes)


def is_precise(median: Quantile | None, precision: float) -> bool:
    """Whether both bounds are within `precision` of the median."""
    if median is None or median.low_ns is None or median.high_ns is None:
        return False
    room = precision * median.value_ns
    return median.value_ns - median.low_ns <= room and median.high_ns - median.value_ns <= room


_CHECK_GROWTH = 1.1
"""The interval is looked at again after a tenth more samples, not after every turn: the less often
one looks, the less often chance alone makes it look narrow."""


def judge(tally: Tally, rules: StopRules) -> None:
    """Decide whether a case has enough."""
    enough = tally.time_ns >= rules.min_time_ns and tally.count >= rules.min_count
    spent = tally.time_ns >= rules.budget_ns
    if enough and (spent or tally.count >= tally.check_at):
        tally.check_at = int(tally.count * _CHECK_GROWTH)
        tally.settled = is_precise(tally.median(), rules.precision)
    tally.spent = spent and not tally.settled


def run_rounds(
    lanes: Sequence[Lane],
    rules: StopRules,
    chance: random.Random,
    progress: Progress,
) -> Mapping[int, Tally]:
    """Measure all lanes until each case has enough; see the module.

    Args:
        lanes: ready to be measured, in any order.
        rules: when a case has enough.
        chance: draws the order within each round.
        progress: told after each turn.

    Returns:
        What was taken, by case.
    """
    tallies = {lane.case: Tally() for lane in lanes}
    number = 0
    while running := [lane for lane in lanes if tallies[lane.case].running]:
        chance.shuffle(running)
        for order, lane in enumerate(running):
            tally = tallies[lane.case]
            if tally.error is not None:
                continue
            try:
                latency_ns = tuple(lane.take(rules.slice_ns, _lead_in_ns(lane, rules)))
            except DeploykitError as error:
                tally.error = error
                continue
            tally.add(Turn(lane.case, lane.process, number, order, latency_ns))
            progress("measuring", _share(tallies, rules))
        for case in {lane.case for lane in running}:
            judge(tallies[case], rules)
        number += 1
    return tallies


def _lead_in_ns(lane: Lane, rules: StopRules) -> int:
    return rules.lead_in_ns if lane.call_ns <= rules.lead_in_most_ns else 0


def _share(tallies: Mapping[int, Tally], rules: StopRules) -> float:
    """How much of the work that is needed at least is done."""
    shares = [
        1.0
        if not tally.running
        else 0.95 * min(tally.time_ns / rules.min_time_ns, tally.count / rules.min_count, 1.0)
        for tally in tallies.values()
    ]
    return sum(shares) / len(shares)
