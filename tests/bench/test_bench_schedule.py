"""Whose turn it is and when it is enough, with lanes that only pretend to measure."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from deploykit.bench.schedule import StopRules, Tally, Turn, block_number, columns, run_rounds
from deploykit.core.errors import EnvironmentFailedError
from deploykit.core.progress import silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MS = 1_000_000


@dataclass
class FakeLane:
    case: int
    process: int = 0
    call_ns: int = MS
    noise: float = 0.0
    fails_at: int | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)
    log: list[tuple[int, int]] = field(default_factory=list)

    def take(self, duration_ns: int, lead_in_ns: int) -> list[int]:
        self.asked.append((duration_ns, lead_in_ns))
        self.log.append((self.case, self.process))
        if self.fails_at is not None and len(self.asked) > self.fails_at:
            raise EnvironmentFailedError("the process crashed (SIGSEGV)")
        chance = random.Random(len(self.asked))
        calls = max(1, duration_ns // self.call_ns)
        return [round(self.call_ns * (1 + self.noise * chance.random())) for _ in range(calls)]


RULES = StopRules(min_time_ns=1000 * MS, min_count=100, precision=0.01, budget_ns=5000 * MS)


def measure(
    lanes: Sequence[FakeLane], rules: StopRules = RULES, seed: int = 0
) -> Mapping[int, Tally]:
    return run_rounds(lanes, rules, random.Random(seed), silent)


def test_a_steady_case_stops_at_the_minimum_time() -> None:
    tally = measure([FakeLane(0)])[0]

    assert tally.settled
    assert not tally.spent
    assert tally.time_ns == 1000 * MS


def test_a_slow_case_goes_on_to_the_minimum_count() -> None:
    lane = FakeLane(0, call_ns=40 * MS)
    tally = measure([lane])[0]

    assert tally.count == 100
    assert tally.time_ns == 4000 * MS


def test_a_noisy_case_spends_its_budget_and_says_so() -> None:
    tally = measure([FakeLane(0, call_ns=90 * MS, noise=1.0)])[0]

    assert tally.spent
    assert not tally.settled
    assert 5000 * MS <= tally.time_ns < 5200 * MS


def test_a_case_that_is_precise_exactly_when_the_budget_ends_is_settled() -> None:
    rules = StopRules(min_time_ns=500 * MS, min_count=5, budget_ns=500 * MS)
    tally = measure([FakeLane(0)], rules)[0]

    assert tally.settled
    assert not tally.spent


def test_rounds_are_interleaved_in_an_order_drawn_anew() -> None:
    log: list[tuple[int, int]] = []
    lanes = [FakeLane(case, log=log) for case in range(3)]
    tallies = measure(lanes)
    rounds = [log[i : i + 3] for i in range(0, 30, 3)]

    assert all(sorted(turn) == [(0, 0), (1, 0), (2, 0)] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 2
    for case, tally in tallies.items():
        for turn in tally.turns:
            assert rounds[turn.round][turn.order] == (case, 0)


def test_the_same_seed_gives_the_same_order() -> None:
    logs = []
    for seed in (1, 1, 2):
        log: list[tuple[int, int]] = []
        measure([FakeLane(case, log=log) for case in range(4)], seed=seed)
        logs.append(log)

    assert logs[0] == logs[1] != logs[2]


def test_a_case_that_crashes_leaves_the_others_alone() -> None:
    lanes = [FakeLane(0), FakeLane(1, fails_at=3), FakeLane(1, process=1), FakeLane(2)]
    tallies = measure(lanes)

    assert "SIGSEGV" in str(tallies[1].error)
    assert tallies[0].settled
    assert tallies[2].settled
    assert tallies[0].count == tallies[2].count == 1000


def test_processes_of_a_case_are_pooled_in_the_same_rounds() -> None:
    lanes = [FakeLane(0, process=process) for process in range(2)]
    tally = measure(lanes)[0]

    assert tally.time_ns == 1000 * MS
    assert [turn.process for turn in tally.turns].count(0) == 5
    assert {turn.round for turn in tally.turns} == set(range(5))


@pytest.mark.parametrize(("call_ns", "expected"), [(MS, 10 * MS), (80 * MS, 0)])
def test_a_turn_begins_with_calls_that_are_not_kept_unless_calls_are_long(
    call_ns: int, expected: Any
) -> None:
    lane = FakeLane(0, call_ns=call_ns)
    measure([lane])

    assert {lead_in for _, lead_in in lane.asked} == {expected}


def test_progress_never_goes_back() -> None:
    shares: list[float] = []
    run_rounds(
        [FakeLane(0), FakeLane(1, call_ns=30 * MS)],
        RULES,
        random.Random(0),
        lambda message, share: shares.append(share or 0.0),
    )

    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_nothing_to_measure_is_no_error() -> None:
    assert measure([]) == {}


def test_columns_name_the_block_of_each_sample() -> None:
    turns = [Turn(0, 1, 2, 0, (5, 6)), Turn(0, 0, 3, 1, (7,))]
    latency, block = columns(turns)

    assert latency.tolist() == [5, 6, 7]
    assert block.tolist() == [block_number(1, 2), block_number(1, 2), block_number(0, 3)]
