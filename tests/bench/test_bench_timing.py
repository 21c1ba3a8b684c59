"""The clock, with a fake one."""

from __future__ import annotations

import gc
from array import array
from typing import TYPE_CHECKING

import pytest

from deploykit.bench.timing import (
    WarmUpRules,
    is_steady,
    lead_in,
    no_garbage_collection,
    rest,
    take,
    warm_up,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class FakeClock:
    """A clock that only calls move."""

    def __init__(self, durations: Iterable[int]) -> None:
        self.now = 1_000
        self.durations = iter(durations)
        self.calls = 0

    def __call__(self) -> int:
        return self.now

    def call(self) -> None:
        self.calls += 1
        self.now += next(self.durations)


def forever(duration: int) -> Iterator[int]:
    while True:
        yield duration


def test_each_call_is_timed_by_itself() -> None:
    clock, room = FakeClock([5, 7, 11, 13]), array("q", [0]) * 8
    taken = take(clock.call, clock, room, duration_ns=20)

    assert list(room[:taken]) == [5, 7, 11]


def test_at_least_one_call_however_slow() -> None:
    clock, room = FakeClock([10_000, 1]), array("q", [0]) * 8

    assert take(clock.call, clock, room, duration_ns=1) == 1
    assert room[0] == 10_000


def test_no_more_calls_than_there_is_room() -> None:
    clock, room = FakeClock(forever(1)), array("q", [0]) * 8

    assert take(clock.call, clock, room, duration_ns=1_000_000) == 8


def test_a_lead_in_of_nothing_calls_nothing() -> None:
    clock = FakeClock(forever(10))
    lead_in(clock.call, clock, 0)
    assert clock.calls == 0

    lead_in(clock.call, clock, 25)
    assert clock.calls == 3


def test_warm_up_goes_on_while_calls_become_faster() -> None:
    falling = [max(1000, 3000 - 100 * n) for n in range(1000)]
    clock, room = FakeClock(falling), array("q", [0]) * 64
    found = warm_up(
        clock.call, clock, room, WarmUpRules(window_ns=1, tolerance=0.02, most_ns=10**9)
    )

    assert found.steady
    assert 20 <= found.count <= 30
    assert found.call_ns == 1000
    assert found.spent_ns == sum(falling[: found.count])


def test_warm_up_gives_up_and_says_so() -> None:
    clock, room = FakeClock([10**6 - 1000 * n for n in range(999)]), array("q", [0]) * 64
    found = warm_up(
        clock.call, clock, room, WarmUpRules(window_ns=1, tolerance=0.0001, most_ns=10**8)
    )

    assert not found.steady
    assert found.spent_ns >= 10**8


@pytest.mark.parametrize(
    ("medians", "steady"),
    [
        ([1.0] * 5, False),
        ([1.0] * 6, True),
        ([1.3, 1.2, 1.1, 1.0, 0.9, 0.8], False),
        ([1.3, 0.9, 1.1, 1.0, 1.2, 0.8], True),
        ([9.0, 9.0, 9.0, 1.01, 1.02, 1.03, 1.0, 1.0, 1.0], True),
    ],
)
def test_steady_is_what_two_groups_of_windows_cannot_tell_apart(
    medians: list[float], steady: bool
) -> None:
    assert is_steady(medians, 0.02) is steady


def test_garbage_collection_is_off_inside_and_as_it_was_outside() -> None:
    assert gc.isenabled()
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_rest_waits_until_threads_sleep() -> None:
    spun = iter([0, 2_000_000, 4_000_000, 4_000_100])
    slept: list[float] = []

    assert rest(lambda: next(spun), slept.append) == 6_000_000
    assert len(slept) == 3


def test_rest_gives_up() -> None:
    spun = iter(range(0, 10**12, 2_000_000))

    assert rest(lambda: next(spun), lambda seconds: None, most_ns=10_000_000) == 10_000_000
