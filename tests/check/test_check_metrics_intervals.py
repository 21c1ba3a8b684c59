"""Intervals against published worked values."""

from __future__ import annotations

import numpy as np
import pytest

from deploykit.check.intervals import mean_interval, paired_proportions, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(
    hits: int, count: int, low: float, high: float
) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I."""
    assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_stays_inside() -> None:
    for hits in range(8):
        low, high = wilson(hits, 7)
        assert 0 <= low < high <= 1
        assert wilson(7 - hits, 7) == pytest.approx((1 - high, 1 - low))
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(5, 7, 0.99)[0] < wilson(5, 7, 0.9)[0]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3292)),
        ((18, 12, 2, 18), (0.0562, 0.3290)),
        ((36, 14, 0, 0), (0.1528, 0.4167)),
        ((35, 14, 0, 1), (0.1461, 0.4175)),
        ((18, 14, 0, 18), (0.1441, 0.3963)),
        ((2, 97, 1, 0), (0.8721, 0.9854)),
        ((1, 97, 1, 1), (0.8736, 0.9850)),
        ((0, 29, 1, 0), (0.6666, 0.9882)),
        ((2, 98, 0, 0), (0.9178, 0.9945)),
        ((1, 98, 0, 1), (0.9171, 0.9916)),
        ((0, 30, 0, 0), (0.8395, 1.0)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
    ],
)
def test_paired_proportions_give_the_published_intervals(
    cells: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    """Newcombe 1998, table III, method 10. The paper rounds on the way: one unit of slack."""
    assert paired_proportions(*cells) == pytest.approx(expected, abs=1.1e-4)


def test_swapping_the_two_turns_the_interval_around() -> None:
    low, high = paired_proportions(500, 30, 11, 40)

    assert paired_proportions(500, 11, 30, 40) == pytest.approx((-high, -low))
    assert low < 19 / 581 < high


def test_pairing_narrows_the_interval_where_the_two_agree() -> None:
    together = paired_proportions(930, 10, 5, 55)
    apart = paired_proportions(880, 60, 55, 5)

    assert together[1] - together[0] < (apart[1] - apart[0]) / 2


def test_the_mean_interval_is_that_of_students_own_data() -> None:
    """Student 1908: additional hours of sleep; R's `t.test(sleep, paired)` gives these limits."""
    gain = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])

    assert mean_interval(gain) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert mean_interval(gain[:1]) is None
