"""The scale and zero point with the least squared error, rounding and clipping together.

A quantizer has the levels `scale * k` for whole k, 0 among them. With the scale fixed, the error
is one sum over positive values and one over negative ones; and in each, a value that is not
clipped has the same error whatever the number of levels on its side. So running sums give the
error of every zero point at the price of one, and what is left is a search over one number.

Within a bin, values are taken as spread evenly. The squared rounding error then has an integral
in closed form, which also holds where a bin is wider than a step (after one huge outlier). In
steps, with n the nearest whole number to u::

    G(u) = integral of (round(v) - v)^2 from 0 to u = n / 12 + (u - n)^3 / 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_COARSE = 72
_SMALLEST = 2.0**-9
"""Of the scales tried, as a share of that which clips nothing: 72 make steps of 9 %."""
_ROUNDS = 3
_FINE = 4
"""Then, three times, scales between the best one's neighbours, so many on each side: to 0.2 %."""


class OneSide:
    """The values of one sign, and the squared error of all quantizers of one scale over them.

    Everything is in units of the bins' width, so no square of a value can overflow.

    Attributes:
        values: how many there are.
    """

    def __init__(self, counts: NDArray[np.int64], least: float, most: float) -> None:
        """Prepare running sums.

        Args:
            counts: by magnitude, in bins of width 1 from zero on, without exact zeros.
            least: the smallest magnitude there is, at least: 0 where it is not known.
            most: the largest.
        """
        used = np.flatnonzero(counts)
        # The outermost values are known exactly; so a constant is a point, not a bin.
        self._left = np.clip(used, least, most).astype(np.float64)
        self._right = np.clip(used + 1, least, most).astype(np.float64)
        self._wide = self._right - self._left
        self._centre = (self._left + self._right) / 2
        self._counts = counts[used].astype(np.float64)
        self.values = int(counts.sum())
        self._beyond = [
            _sum_from(self._counts * moment)
            for moment in (1.0, self._centre, self._centre**2 + self._wide**2 / 12)
        ]

    def errors(self, scale: float, levels: int) -> NDArray[np.float64]:
        """Summed squared errors with clipping at level q, for q from 0 to `levels`."""
        edge = scale * np.arange(levels + 1)
        at = np.searchsorted(self._centre, edge)
        rounded = np.concatenate([[0.0], np.cumsum(self._counts * self._rounding(scale))])
        zeroth, first, second = (moment[at] for moment in self._beyond)
        clipped = second - 2 * edge * first + edge**2 * zeroth
        return np.asarray(rounded[at] + np.maximum(clipped, 0.0))

    def _rounding(self, scale: float) -> NDArray[np.float64]:
        """Mean squared rounding error of each bin, if nothing is clipped."""
        left, right, wide = self._left / scale, self._right / scale, self._wide / scale
        whole_left, whole_right = np.rint(left), np.rint(right)
        left -= whole_left
        right -= whole_right
        integral = (whole_right - whole_left) / 12 + (right * right * right - left**2 * left) / 3
        # Too narrow for a difference of integrals: a point.
        mean = np.divide(integral, wide, out=left * left, where=wide > 1e-6)
        return np.asarray(mean * scale**2)


def least_squares(below: OneSide, above: OneSide, span: float, steps: int) -> tuple[float, float]:
    """The best range of an unsigned quantizer, over all scales and zero points.

    Args:
        below: magnitudes of the negative values.
        above: the positive values.
        span: from the least value, or 0, to the greatest, or 0, in widths; above 0.
        steps: between the lowest and the highest level, such as 255.

    Returns:
        Lowest and highest level, in widths. Zero is a level: a whole number of steps above the
        lowest.
    """

    def of(scale: float) -> NDArray[np.float64]:
        # Entry z: z levels below zero, and the others above.
        return below.errors(scale, steps) + above.errors(scale, steps)[::-1]

    usual = largest = span / steps
    if below.values and above.values:
        # One step fewer, so that rounding the zero point clips neither end.
        largest = span / (steps - 1)
    scale = _search(lambda scale: float(of(scale).min()), usual, largest)
    zero_point = int(np.argmin(of(scale)))
    return -zero_point * scale, (steps - zero_point) * scale


def least_squares_symmetric(below: OneSide, above: OneSide, reach: float, steps: int) -> float:
    """The best threshold of a signed quantizer with its zero in the middle.

    Args:
        below: magnitudes of the negative values.
        above: the positive values.
        reach: the largest magnitude, in widths, above 0.
        steps: from zero to the highest level, such as 127; there is one more below zero.

    Returns:
        The highest level, in widths.
    """

    def of(scale: float) -> float:
        return float(below.errors(scale, steps + 1)[-1] + above.errors(scale, steps)[-1])

    return steps * _search(of, reach / steps, reach / steps)


def _search(error: Callable[[float], float], usual: float, largest: float) -> float:
    """The scale with the least error, of equals the largest.

    Args:
        error: of a scale.
        usual: a scale that must be tried as it is: that of the extremes.
        largest: to try.
    """
    factor = _SMALLEST ** (1 / (_COARSE - 1))
    best, least = largest, error(largest)
    for power in range(_COARSE):
        scale = usual * factor**power
        if (found := error(scale)) < least:
            best, least = scale, found
    for _ in range(_ROUNDS):
        centre = best
        for power in range(-_FINE, _FINE + 1):
            scale = min(centre * factor ** (power / (_FINE + 1)), largest)
            if (found := error(scale)) < least:
                best, least = scale, found
        factor **= 1 / (_FINE + 1)
    return best


def _sum_from(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entry i: the sum of entry i and those after it; one more entry, 0, at the end."""
    return np.concatenate([values[::-1].cumsum()[::-1], [0.0]])
