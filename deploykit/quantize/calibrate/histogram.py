"""A histogram of a stream: its size is fixed, its range grows, and no count is ever guessed.

Bins are [i·w, (i+1)·w) for whole i, and the width w is a power of two. So two bins of one width
are exactly one bin of the next, and growing moves counts without splitting any: what is here
after a million batches is, count by count, what one pass over all values at once would give.

::

    w = 1    ···|  -2  |  -1  |   0  |   1  |   2  |   3  |···
    w = 2    ···|     -1      |      0      |      1      |···

A power of two also makes the work per value exact: x / w only changes the exponent of x.

The limit of equal bins: one value thousands of times beyond all others leaves them one bin. Its
count and the extremes are still exact, and methods still answer within one bin, a wide one then.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import floor, frexp, inf, ldexp
from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.calibrate.chunks import CHUNK, chunks, finite_part

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS_LOG2 = 13
BINS = 1 << BINS_LOG2
"""64 kB a tensor. At least a quarter of them lie between zero and the largest magnitude, half
where all values have one sign: eight and more for each step of a quantizer of 8 bits."""

LEAST_EXPONENT = -126
"""Of the width: 2^126 is the largest power whose inverse is a normal float32. Values nearer to
zero than that (denormal numbers) share a bin."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the bins are.

    Attributes:
        exponent: of the width, which is 2**exponent.
        first: number of the first bin; bin i covers [i * width, (i + 1) * width).
    """

    exponent: int
    first: int

    @property
    def width(self) -> float:
        """Of one bin, in the unit of the values."""
        return ldexp(1.0, self.exponent)


def grid_for(low: float, high: float) -> Grid:
    """The finest grid whose bins reach from `low` to `high` and have zero among them.

    It depends on the extremes alone, so the order in which values came does not matter. Zero is
    among them because every quantizer's range has it: finer bins, far from zero, would tell
    apart what no quantizer can.

    Args:
        low: the least value, finite.
        high: the greatest, finite and not below `low`.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    reach = max(-low, high)
    # Nothing but zeros: any width would do, and the least can still grow to any other.
    exponent = max(frexp(reach)[1] - BINS_LOG2, LEAST_EXPONENT) if reach else LEAST_EXPONENT
    while _bin_of(high, exponent) - _bin_of(low, exponent) + 1 > BINS:
        exponent += 1
    return Grid(exponent, _bin_of(low, exponent))


def _bin_of(value: float, exponent: int) -> int:
    """The whole number i with i * 2**exponent <= value < (i + 1) * 2**exponent."""
    index = floor(ldexp(value, -exponent))
    # A tiny negative number can vanish when it is scaled.
    return -1 if index == 0 and value < 0 else index


class Histogram:
    """Counts of all finite values so far, with what must be known exactly beside them.

    Attributes:
        grid: where the bins are.
        counts: int64 [BINS], by bin; the first is number `grid.first`.
        count: finite values, zeros among them.
        zeros: values that are exactly zero, of either sign.
        non_finite: NaN and infinities, which are in no other figure.
        low: the least finite value, to the bit; infinity while there is none.
        high: the greatest, to the bit; minus infinity while there is none.
    """

    def __init__(self) -> None:
        self.grid = Grid(LEAST_EXPONENT, 0)
        # Written, so that it is in memory from now on: no later batch takes more than the first.
        self.counts: NDArray[np.int64] = np.full(BINS, 0, np.int64)
        self.count = 0
        self.zeros = 0
        self.non_finite = 0
        self.low = inf
        self.high = -inf

    def add(self, values: NDArray[np.generic]) -> None:
        """Count all values of an array.

        It takes less than 2 MB beside the array, whatever the array's size.

        Args:
            values: of any shape and any real type; it may be empty.
        """
        for chunk in chunks(values):
            finite, low, high = finite_part(chunk)
            self.non_finite += chunk.size - finite.size
            if finite.size == 0:
                continue
            self._reach(low, high)
            self.count += finite.size
            self.zeros += finite.size - int(np.count_nonzero(finite))
            self.counts += np.bincount(self._places(finite), minlength=BINS)

    def positive(self) -> NDArray[np.int64]:
        """A copy of the counts at and above zero: entry i is for i * width on."""
        return _trimmed(self.counts[-self.grid.first :].copy())

    def negative(self) -> NDArray[np.int64]:
        """A copy of the counts below zero, mirrored: entry i is for -i * width and less."""
        return _trimmed(self.counts[: -self.grid.first][::-1].copy())

    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of |x|: entry i is for i * width to (i + 1) * width, and the last is not empty.

        A negative multiple of the width is an entry below a positive one of the same magnitude,
        for bins are closed on their left.
        """
        short, long = sorted((self.positive(), self.negative()), key=len)
        long[: short.size] += short
        return long

    def _reach(self, low: float, high: float) -> None:
        """Move the counts to a grid on which `low` and `high` have a bin."""
        if self.low <= low and high <= self.high:
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        grid = grid_for(self.low, self.high)
        if grid == self.grid:
            return
        used = np.flatnonzero(self.counts)
        shift = grid.exponent - self.grid.exponent
        moved = np.zeros(BINS, np.int64)
        np.add.at(moved, ((used + self.grid.first) >> shift) - grid.first, self.counts[used])
        self.grid = grid
        self.counts[:] = moved  # in its place, which is in memory

    def _places(self, values: NDArray[np.floating]) -> NDArray[np.intp]:
        """Each value's place in `counts`. Exact: scaling by a power of two rounds nothing."""
        number = values.dtype.type
        scaled, places = _SCRATCH.of(values)
        np.multiply(values, number(ldexp(1.0, -self.grid.exponent)), out=scaled)
        np.floor(scaled, out=scaled)
        if self.grid.exponent > 0:
            # The exception: shrunk below the smallest number, a negative value becomes zero.
            scaled[(scaled == 0) & (values < 0)] = -1
        if self.grid.first:
            scaled -= number(self.grid.first)
        np.copyto(places, scaled, casting="unsafe")
        return places


class _Scratch(threading.local):
    """Memory that a thread works in, kept.

    Made anew for each piece, its pages would be new each time, and how much is in memory at most
    would depend on which threads happen to work at the same moment.
    """

    def __init__(self) -> None:
        self._scaled: dict[np.dtype[np.floating], NDArray[np.floating]] = {}
        self._places = np.full(CHUNK, 0, np.intp)

    def of(self, values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.intp]]:
        """Room for numbers like these, and for as many whole ones."""
        dtype, size = values.dtype, values.size
        if dtype not in self._scaled:
            self._scaled[dtype] = np.full(CHUNK, 0, dtype)
        return self._scaled[dtype][:size], self._places[:size]


_SCRATCH = _Scratch()


def take_scratch() -> None:
    """Take the memory that this thread counts in, before what comes at its side is largest."""
    _SCRATCH.of(np.empty(0, np.float32))


def _trimmed(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Without the empty bins at the end."""
    used = np.flatnonzero(counts)
    return counts[: used[-1] + 1] if used.size else counts[:0]
