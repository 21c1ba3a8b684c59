"""The clock: what goes around one call, and when a call has settled.

The loop does the least that can be done between two readings of the clock: nothing. What it keeps
goes into an array that is there already, and Python's garbage collector is off meanwhile, as in
`timeit`: a collection belongs to the program that benchmarks, not to the model.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator

    Clock = Callable[[], int]

LARGEST_SLICE = 1 << 17
"""Calls that a slice can hold: 0.1 s of calls of 1 us."""


@dataclass(frozen=True, slots=True)
class WarmUpRules:
    """When the first, slower calls are over.

    Calls are grouped into windows; latencies are steady once the medians of the newest three
    windows and of the three before cannot be told apart: they differ by less than `tolerance`,
    or the two groups overlap. A trend keeps the groups apart, noise alone does so only once in
    ten times (2 of the 20 ways to split six values into halves).

    Attributes:
        window_ns: length of a window; at least one call.
        tolerance: a share of the older median.
        most_ns: warming up ends here, steady or not.
    """

    window_ns: int = 20_000_000
    tolerance: float = 0.02
    most_ns: int = 3_000_000_000


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How warming up went.

    Attributes:
        count: calls.
        spent_ns: all of them together.
        steady: whether latencies had settled.
        call_ns: median of the last window.
    """

    count: int
    spent_ns: int
    steady: bool
    call_ns: int


_GROUP = 3


def take(call: Callable[[], object], clock: Clock, room: array[int], duration_ns: int) -> int:
    """Time calls one by one, at least one, until `duration_ns` has passed or `room` is full.

    Args:
        call: what is timed.
        clock: in nanoseconds, never going back: `time.perf_counter_ns`.
        room: latencies in nanoseconds are written here, from index 0.
        duration_ns: no call starts later than this.

    Returns:
        How many calls were timed.
    """
    most = len(room)
    taken = 0
    end = clock() + duration_ns
    while taken < most:
        start = clock()
        call()
        stop = clock()
        room[taken] = stop - start
        taken += 1
        if stop >= end:
            break
    return taken


def lead_in(call: Callable[[], object], clock: Clock, duration_ns: int) -> None:
    """Call without keeping anything, until caches and threads are as they were before a pause."""
    end = clock() + duration_ns
    while clock() < end:
        call()


def warm_up(
    call: Callable[[], object], clock: Clock, room: array[int], rules: WarmUpRules
) -> WarmUp:
    """Call until latencies are steady, or until it has taken too long."""
    start = clock()
    medians: list[float] = []
    count = 0
    while True:
        taken = take(call, clock, room, rules.window_ns)
        count += taken
        medians.append(median(room[:taken]))
        steady = is_steady(medians, rules.tolerance)
        spent = clock() - start
        if steady or spent >= rules.most_ns:
            return WarmUp(count, spent, steady, round(medians[-1]))


def is_steady(medians: list[float], tolerance: float) -> bool:
    """Whether the newest three windows are like the three before; see `WarmUpRules`."""
    if len(medians) < 2 * _GROUP:
        return False
    older, newer = medians[-2 * _GROUP : -_GROUP], medians[-_GROUP:]
    close = abs(median(newer) - median(older)) <= tolerance * median(older)
    overlap = min(older) <= max(newer) and min(newer) <= max(older)
    return close or overlap


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now, then not again until the block ends."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def rest(cpu_clock: Clock, sleep: Callable[[float], None], most_ns: int = 200_000_000) -> int:
    """Wait until the threads of this process have gone to sleep.

    ONNX Runtime's threads go on waiting in a loop for tens of milliseconds after the last call,
    and OpenMP's for a few: they would take the CPU from whoever is measured next.

    Args:
        cpu_clock: CPU time of the whole process in nanoseconds: `time.process_time_ns`.
        sleep: takes seconds.
        most_ns: give up after this time.

    Returns:
        How long it slept, in nanoseconds.
    """
    slept = 0
    before = cpu_clock()
    while slept < most_ns:
        sleep(_REST_NS / 1e9)
        slept += _REST_NS
        now = cpu_clock()
        if now - before < _REST_NS // 4:
            break
        before = now
    return slept


_REST_NS = 2_000_000
