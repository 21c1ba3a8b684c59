from __future__ import annotations

from math import inf, sqrt

import pytest

from deploykit.core.student_t import student_t


@pytest.mark.parametrize(
    ("confidence", "freedom", "expected"),
    [
        (0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 9, 2.262), (0.95, 30, 2.042),
        (0.99, 5, 4.032), (0.99, 10, 3.169), (0.90, 120, 1.658), (0.95, 120, 1.980),
    ],
)  # fmt: skip
def test_student_t_is_that_of_the_tables(confidence: float, freedom: int, expected: float) -> None:
    """Abramowitz and Stegun 1964, table 26.10."""
    assert student_t(confidence, freedom) == pytest.approx(expected, abs=5e-4)


def test_student_t_has_known_closed_forms_and_no_seam() -> None:
    # v = 2: A = t / sqrt(2 + t^2).
    t = student_t(0.95, 2)
    assert t / sqrt(2 + t * t) == pytest.approx(0.95, abs=1e-12)
    steps = [student_t(0.95, freedom) for freedom in (198, 199, 200, 201)]
    assert steps == sorted(steps, reverse=True)
    assert steps[1] - steps[2] == pytest.approx(steps[2] - steps[3], rel=0.02)
    assert student_t(0.95, 10**9) == pytest.approx(1.959964, abs=1e-6)
    assert student_t(0.95, 10**9) < inf
