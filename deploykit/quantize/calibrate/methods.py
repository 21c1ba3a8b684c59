"""From a histogram to the range of a quantizer.

Every range contains zero: a quantizer must represent it exactly (padding, ReLU's output), and
placement would widen a range without it. A symmetric one is (-t, t), for a signed quantizer with
the step t / 127; an asymmetric one (low, high) is for an unsigned quantizer with a zero point and
255 steps from low to high. (Figures for 8 bits.)
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.calibrate.entropy import entropy_threshold
from deploykit.quantize.calibrate.mse import OneSide, least_squares, least_squares_symmetric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deploykit.quantize.calibrate.histogram import Histogram
    from deploykit.quantize.calibration_options import CalibrationOptions


def range_of(
    histogram: Histogram, options: CalibrationOptions, *, symmetric: bool
) -> tuple[float, float]:
    """What `options.method` chooses.

    Args:
        histogram: of at least one finite value.
        options: with a method that reads histograms.
        symmetric: whether the quantizer is signed with its zero in the middle.

    Returns:
        Low, at most 0, and high, at least 0.
    """
    if options.method == "percentile":
        return percentile(histogram, options.percentile, symmetric=symmetric)
    if options.method == "entropy":
        return entropy(histogram, options.bits, symmetric=symmetric)
    return mse(histogram, options.bits, symmetric=symmetric)


def percentile(
    histogram: Histogram, percent: float = 99.99, *, symmetric: bool
) -> tuple[float, float]:
    """All but the outermost values.

    Within one bin of `np.percentile` (its default, linear) of all values: `percent` of |x| if
    symmetric, else `100 - percent` and `percent` of x, widened to zero.

    Args:
        histogram: of at least one finite value.
        percent: above 50, at most 100.
        symmetric: see `range_of`.
    """
    width, share = histogram.grid.width, percent / 100
    if symmetric:
        counts, end = histogram.magnitudes(), _reach(histogram) / width
        least = min(float(np.flatnonzero(counts)[0]), end)
        threshold = _quantile(counts, 0, share, least, end) * width
        return -threshold, threshold
    counts, first = histogram.counts, histogram.grid.first
    low, high = histogram.low / width, histogram.high / width
    lowest = _quantile(counts, first, 1 - share, low, high) * width
    highest = _quantile(counts, first, share, low, high) * width
    return min(lowest, 0.0), max(highest, 0.0)


def entropy(histogram: Histogram, bits: int = 8, *, symmetric: bool) -> tuple[float, float]:
    """The range that changes the distribution least; `entropy.py` says how it is found.

    One threshold for |x| is sought. Symmetric, it has half of the levels (128 with 8 bits), as in
    the source. Asymmetric, it has all levels (256) if the values have one sign, and the other end
    is zero. Values of both signs share the levels: the threshold, found with half of them, goes
    to both sides, and a side that does not reach it ends where its values end, so that (-0.2, 6)
    stays (-0.2, t). Thresholds are edges of bins, but never beyond the largest magnitude.

    Args:
        histogram: of at least one finite value.
        bits: of the quantizer.
        symmetric: see `range_of`.
    """
    one_sided = histogram.low >= 0 or histogram.high <= 0
    levels = 1 << (bits if one_sided and not symmetric else bits - 1)
    magnitudes = histogram.magnitudes()
    if magnitudes.size:
        magnitudes[0] -= histogram.zeros
    reach = _reach(histogram)
    if reach == 0:
        return 0.0, 0.0
    threshold = min(entropy_threshold(magnitudes, levels) * histogram.grid.width, reach)
    if symmetric:
        return -threshold, threshold
    return max(min(histogram.low, 0.0), -threshold), min(max(histogram.high, 0.0), threshold)


def mse(histogram: Histogram, bits: int = 8, *, symmetric: bool) -> tuple[float, float]:
    """The range with the least expected squared error of rounding and clipping; see `mse.py`.

    An asymmetric range has zero at a whole number of steps from its low end already, so placement
    does not have to move it.

    Args:
        histogram: of at least one finite value.
        bits: of the quantizer.
        symmetric: see `range_of`.
    """
    width, reach = histogram.grid.width, _reach(histogram)
    if reach == 0:
        return 0.0, 0.0
    low, high = histogram.low / width, histogram.high / width
    negative, positive = histogram.negative(), histogram.positive()
    if positive.size:
        positive[0] -= histogram.zeros
    below = OneSide(negative, max(-high, 0.0), max(-low, 0.0))
    above = OneSide(positive, max(low, 0.0), max(high, 0.0))
    if symmetric:
        steps = (1 << (bits - 1)) - 1
        threshold = least_squares_symmetric(below, above, reach / width, steps) * width
        return -threshold, threshold
    span = max(high, 0.0) - min(low, 0.0)
    low, high = least_squares(below, above, span, (1 << bits) - 1)
    return low * width, high * width


def _reach(histogram: Histogram) -> float:
    """The largest magnitude."""
    return max(abs(histogram.low), abs(histogram.high))


def _quantile(
    counts: NDArray[np.int64], first: int, share: float, low: float, high: float
) -> float:
    """A quantile in widths: between two neighbours in order, as `np.percentile` has it.

    The two may be far apart (an outlier and the value before it), so each is looked up: it is
    known to a bin, and so is what lies between them.

    Args:
        counts: by bin.
        first: number of the first bin.
        share: from 0 to 1.
        low: the least value, in widths.
        high: the greatest, in widths.
    """
    below = np.cumsum(counts)
    last = int(below[-1]) - 1

    def value(rank: int) -> float:
        if rank >= last:
            return high
        if rank == 0:
            return low
        at = int(np.searchsorted(below, rank, side="right"))
        before = int(below[at] - counts[at])
        inside = (rank - before + 0.5) / int(counts[at])
        return min(max(first + at + inside, low), high)

    place = share * last
    rank = min(floor(place), last)
    start = value(rank)
    return start + (place - rank) * (value(min(rank + 1, last)) - start)
