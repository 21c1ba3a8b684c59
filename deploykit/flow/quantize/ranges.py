"""One pass over the data, ranges for many methods: histograms that are kept, and asked again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploykit.quantize.calibrate.methods import range_of
from deploykit.quantize.calibrate.observe import HistogramObserver
from deploykit.quantize.calibration_options import HISTOGRAM_METHODS, CalibrationOptions
from deploykit.quantize.ranges import Range

if TYPE_CHECKING:
    from deploykit.load.data import Array
    from deploykit.quantize.calibrate.histogram import Histogram
    from deploykit.quantize.calibrate.observe import Observer

SERVED = ("min-max", *HISTOGRAM_METHODS)
"""Methods that a histogram is enough for: its extremes are to the bit."""
_CHECKED = CalibrationOptions(method="percentile")
"""Refuses what no range can be made of, and costs least."""


class _Kept:
    """An observer whose histogram somebody keeps."""

    def __init__(self, kept: dict[str, Histogram]) -> None:
        self._kept = kept
        self._inner = HistogramObserver(_CHECKED, symmetric=False)

    @property
    def non_finite(self) -> int:
        """NaN and infinities so far."""
        return self._inner.non_finite

    def add(self, values: Array) -> None:
        """See one batch."""
        self._inner.add(values)

    def range(self, tensor: str) -> Range:
        """All that was seen; the histogram is kept under this name."""
        self._inner.range(tensor)  # says what is wrong
        self._kept[tensor] = self._inner.histogram
        return Range(tensor, self._inner.histogram.low, self._inner.histogram.high)


@dataclass(slots=True, eq=False)
class Histograms:
    """Of one pass: 64 kB a value, whatever the data.

    Attributes:
        by_name: histograms by the names of values, in the order of the graph.
    """

    by_name: dict[str, Histogram] = field(default_factory=dict)

    def observer(self) -> Observer:
        """A new one, whose histogram will be here."""
        return _Kept(self.by_name)

    def ranges(self, calibration: CalibrationOptions, *, symmetric: bool) -> dict[str, Range]:
        """What a method chooses.

        Args:
            calibration: with one of the methods of `SERVED`.
            symmetric: whether quantizers have zero in the middle.
        """
        found = {}
        for name, histogram in self.by_name.items():
            low, high = histogram.low, histogram.high
            if calibration.method in HISTOGRAM_METHODS:
                low, high = range_of(histogram, calibration, symmetric=symmetric)
            found[name] = Range(name, low, high)
        return found
