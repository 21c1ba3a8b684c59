"""Intervals: known values, the numbers of samples that bounds need, and coverage by simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deploykit.bench.statistics import (
    order_ranks,
    paired_ratio,
    quantile,
    samples_needed,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("share", "confidence", "two_sided", "expected"),
    [
        (0.99, 0.99, False, 459),
        (0.99, 0.99, True, 528),
        (0.5, 0.95, True, 6),
        (0.9, 0.99, True, 51),
        (0.01, 0.99, True, 528),
    ],
)
def test_samples_that_a_bound_needs(
    share: float, confidence: float, two_sided: bool, expected: Any
) -> None:
    assert samples_needed(share, confidence, two_sided=two_sided) == expected


@pytest.mark.parametrize("count", [527, 528])
def test_p99_appears_with_the_528th_sample(count: int) -> None:
    latency = np.arange(count, dtype=np.int64)
    found = quantile(latency, np.arange(count), 0.99, 0.99)

    assert (found is not None) == (count >= 528)


def test_ranks_of_a_median_of_100_as_printed_in_hahn_and_meeker() -> None:
    # Table A.15a gives 40 and 61 for 95 %.
    assert order_ranks(100, 0.5, 0.95) == (40, 61)


def test_ranks_are_the_tightest_that_hold() -> None:
    count, share, risk = 40, 0.9, 0.005
    mass = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    low = max(rank for rank in range(count + 1) if sum(mass[:rank]) <= risk)
    high = min((rank for rank in range(count + 1) if sum(mass[rank:]) <= risk), default=count + 1)

    assert order_ranks(count, share, 1 - 2 * risk) == (low, high)


def _coverage(
    draw: Callable[[np.random.Generator], tuple[Any, Any]],
    truth: float,
    share: float,
    confidence: float,
    trials: int = 400,
) -> float:
    held = 0
    for seed in range(trials):
        latency, block = draw(np.random.default_rng(seed))
        found = quantile(latency, block, share, confidence)
        assert found is not None
        above = found.low_ns is None or found.low_ns <= truth
        below = found.high_ns is None or truth <= found.high_ns
        held += above and below
    return held / trials


def test_median_of_independent_samples_is_covered() -> None:
    def draw(rng: np.random.Generator) -> tuple[Any, Any]:
        return rng.exponential(1e6, 600).astype(np.int64), np.repeat(np.arange(12), 50)

    assert _coverage(draw, math.log(2) * 1e6, 0.5, 0.95) >= 0.94


def test_median_is_covered_where_rounds_differ() -> None:
    """An interval that took calls for independent would cover it in a third of the trials."""

    def draw(rng: np.random.Generator) -> tuple[Any, Any]:
        level = np.repeat(rng.normal(1e6, 5e4, 12), 50)
        return (level + rng.normal(0, 1e4, 600)).astype(np.int64), np.repeat(np.arange(12), 50)

    assert _coverage(draw, 1e6, 0.5, 0.95) >= 0.92

    def as_if_independent(rng: np.random.Generator) -> tuple[Any, Any]:
        latency, _ = draw(rng)
        return latency, np.arange(len(latency))

    assert _coverage(as_if_independent, 1e6, 0.5, 0.95) < 0.6


def test_p99_is_covered_where_slow_calls_come_in_bursts() -> None:
    def draw(rng: np.random.Generator) -> tuple[Any, Any]:
        slow = np.repeat(rng.random(40) < 0.1, 25) & (rng.random(1000) < 0.3)
        return np.where(slow, 5_000_000, 1_000_000) + rng.integers(0, 1000, 1000), np.repeat(
            np.arange(40), 25
        )

    truth = 5_000_000 + 667  # 3 % are slow: p99 is two thirds up among them

    # Not quite 99 %: there are four slow rounds in forty. As independent it would be 90 %.
    assert _coverage(draw, truth, 0.99, 0.99) >= 0.95


def test_a_single_slice_bounds_nothing() -> None:
    found = quantile(np.arange(100), np.zeros(100, np.int64), 0.5, 0.95)

    assert found is not None
    assert (found.low_ns, found.high_ns) == (None, None)


def test_a_coarse_clock_is_no_spread() -> None:
    latency = np.full(1000, 41, np.int64)
    found = quantile(latency, np.repeat(np.arange(10), 100), 0.5, 0.95)

    assert found is not None
    assert (found.low_ns, found.value_ns, found.high_ns) == (41, 41, 41)


def test_drift_falls_out_of_a_paired_ratio() -> None:
    drift = {number: 1 + number / 10 for number in range(20)}
    reference = {number: 2e6 * slow for number, slow in drift.items()}
    other = {number: 1e6 * slow for number, slow in drift.items()}
    found = paired_ratio(reference, other)

    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    assert found.rounds == 20


def test_a_ratio_of_few_rounds_has_no_interval() -> None:
    found = paired_ratio(dict.fromkeys(range(5), 2.0), dict.fromkeys(range(7), 1.0))

    assert found is not None
    assert (found.value, found.low, found.high, found.rounds) == (2, None, None, 5)


def test_no_common_round_gives_no_ratio() -> None:
    assert paired_ratio({0: 1.0}, {1: 1.0}) is None
