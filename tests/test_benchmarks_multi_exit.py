"""What the benchmark of exits says of a measurement."""

from __future__ import annotations

from benchmarks.multi_exit import figures_of
from benchmarks.multi_exit_one import ONE, SPLIT, STAGES, WHOLE, Told
from benchmarks.result import Result


def _told(stages: int, right: int, split: float = 1.05, elsewhere: int = 0) -> Told:
    ns = {WHOLE: 1e6, STAGES: 1e6 / stages, ONE: 5e5, SPLIT: split * 1e6}
    hits = {WHOLE: 9400, STAGES: right, "own end": 9400}
    return Told(ns, hits, 10_000, (8000, 1500, 500), elsewhere, 0)


def test_each_goal_can_fall_short() -> None:
    cases = {
        "met": (_told(2, 9360), True),
        "slow": (_told(1, 9360), False),
        "wrong": (_told(2, 9340), False),
        "split": (_told(2, 9360, split=1.11), False),
        "elsewhere": (_told(2, 9360, elsewhere=11), False),
    }
    for name, (told, met) in cases.items():
        assert Result(tuple(figures_of(told, 1, judged=True))).met is met, name


def test_part_of_the_data_is_not_held_against_a_limit_of_accuracy() -> None:
    assert Result(tuple(figures_of(_told(2, 9000), 1, judged=False))).met
