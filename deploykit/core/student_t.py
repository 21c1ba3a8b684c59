"""Student's t distribution, for every interval of a mean, without a dependency.

Source: Student, "The probable error of a mean", Biometrika 6, 1908. The formulas are those of
Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, section 26.7.
"""

from __future__ import annotations

from functools import lru_cache
from math import atan, cos, inf, pi, sin, sqrt
from statistics import NormalDist

# From so many degrees of freedom on, the expansion of section 26.7.5 is exact to 1e-9.
_MANY = 200


@lru_cache(maxsize=256)
def student_t(confidence: float, freedom: int) -> float:
    """The t that a share `confidence` of Student's distribution lies within, both sides.

    Args:
        confidence: between 0 and 1.
        freedom: degrees of freedom, at least 1.
    """
    if freedom >= _MANY:
        return _expanded(NormalDist().inv_cdf((1 + confidence) / 2), freedom)
    low, high = 0.0, 1.0
    while _share_within(high, freedom) < confidence:
        high *= 2
    while True:
        middle = (low + high) / 2
        if middle in {low, high}:  # no float lies between them
            return middle
        low, high = (middle, high) if _share_within(middle, freedom) < confidence else (low, middle)


def _share_within(t: float, freedom: int) -> float:
    """A(t|v): equations 26.7.3 (odd) and 26.7.4 (even)."""
    angle = atan(t / sqrt(freedom))
    factor = cos(angle) ** 2
    odd = freedom % 2 == 1
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    for step in range(freedom // 2):
        total += term
        term *= factor * (
            (2 * step + 2) / (2 * step + 3) if odd else (2 * step + 1) / (2 * step + 2)
        )
    if odd:
        return 2 / pi * (angle + sin(angle) * total)
    return sin(angle) * total


def _expanded(z: float, freedom: float) -> float:
    """Equation 26.7.5."""
    if z == inf:
        return inf
    v = freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )
