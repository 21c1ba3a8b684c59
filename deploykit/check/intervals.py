"""Confidence intervals of proportions, of means, and of differences between paired ones.

Sources:
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22,
    1927: the score interval of a proportion.
    Newcombe, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", Statistics in Medicine 17, 1998, 2635-2650: method 10.
"""

from __future__ import annotations

from math import hypot, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeAlias

from deploykit.core.student_t import student_t

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Interval: TypeAlias = tuple[float, float]

CONFIDENCE = 0.95


def wilson(hits: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a proportion; it stays inside 0..1 and never has zero width.

    Args:
        hits: from 0 to `count`.
        count: at least 1.
        confidence: two-sided, between 0 and 1.
    """
    z = _z(confidence)
    share = hits / count
    middle = share + z * z / (2 * count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At the ends the formula gives 0 and 1 exactly; rounding would miss them by 1e-17.
    low = 0.0 if hits == 0 else (middle - half) / scale
    high = 1.0 if hits == count else (middle + half) / scale
    return low, high


def paired_proportions(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the first proportion less the second, both of the same samples.

    Newcombe's method 10: the Wilson intervals of the two, put together with the correlation
    phi, which is corrected for continuity.

    Args:
        both: samples that both got right.
        only_first: samples that only the first got right.
        only_second: samples that only the second got right.
        neither: samples that both got wrong. The four together are at least 1.
        confidence: two-sided, between 0 and 1.
    """
    count = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    p, q = first / count, second / count
    p_low, p_high = wilson(first, count, confidence)
    q_low, q_high = wilson(second, count, confidence)
    phi = _corrected_phi(both, only_first, only_second, neither)
    down = _joined(p - p_low, q_high - q, phi)
    up = _joined(p_high - p, q - q_low, phi)
    difference = (only_first - only_second) / count
    return max(-1.0, difference - down), min(1.0, difference + up)


def mean_interval(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval | None:
    """Student's interval of a mean; of a mean difference, where `values` are differences.

    Args:
        values: shape [n], independent of each other.
        confidence: two-sided, between 0 and 1.

    Returns:
        `None` where fewer than two values leave it unknown.
    """
    count = len(values)
    if count < 2:
        return None
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / sqrt(count)
    half = student_t(confidence, count - 1) * error
    return mean - half, mean + half


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _corrected_phi(a: int, b: int, c: int, d: int) -> float:
    """Newcombe 1998, section 2: the numerator of phi moved towards 0 by half the count."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    product = float(a * d - b * c)
    if product > 0:
        product = max(product - (a + b + c + d) / 2, 0.0)
    return product / sqrt(margins)


def _joined(x: float, y: float, phi: float) -> float:
    # x*x - 2*phi*x*y + y*y, written so that rounding cannot make it negative.
    return hypot(x - phi * y, y * sqrt(max(0.0, 1 - phi * phi)))
