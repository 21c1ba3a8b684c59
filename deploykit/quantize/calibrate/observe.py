"""Observers: they see every batch of one tensor and keep a fixed amount of it.

An observer of extremes answers with what it saw; one with a histogram chooses (`methods.py`).
Memory does not depend on how many batches there were.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol

from deploykit.core.errors import BadInputError
from deploykit.quantize.calibrate.chunks import chunks, finite_part
from deploykit.quantize.calibrate.histogram import Histogram
from deploykit.quantize.calibrate.methods import range_of
from deploykit.quantize.calibration_options import HISTOGRAM_METHODS, CalibrationOptions
from deploykit.quantize.ranges import Range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Observer(Protocol):
    """Watches one tensor."""

    @property
    def non_finite(self) -> int:
        """NaN and infinities so far: whoever feeds it may stop at once when it is not 0."""

    def add(self, values: NDArray[np.generic]) -> None:
        """See one batch, of any shape and real type; an empty one changes nothing."""

    def range(self, tensor: str) -> Range:
        """What is worth telling apart, of all that was seen.

        Args:
            tensor: its name, for the record and for errors.

        Raises:
            BadInputError: nothing was seen, or NaN or an infinity.
        """


class MinMaxObserver:
    """The least and the greatest value, to the bit.

    The range is what was seen and need not contain zero, as in every record of ranges:
    placement widens it to zero, which a quantizer has to represent exactly.
    """

    def __init__(self) -> None:
        self.non_finite = 0
        self._low, self._high = inf, -inf

    def add(self, values: NDArray[np.generic]) -> None:
        """See one batch."""
        low, high, non_finite = _extremes(values)
        self.non_finite += non_finite
        self._low, self._high = min(self._low, low), max(self._high, high)

    def range(self, tensor: str) -> Range:
        """The extremes of all batches."""
        _refuse(tensor, self.non_finite, empty=self._low > self._high)
        return Range(tensor, self._low, self._high)


class MovingAverageObserver:
    """An average of each batch's extremes, so that one outlier moves the range a little only.

    From the second batch on, with c = `averaging`::

        low  += c * (min(batch) - low)
        high += c * (max(batch) - high)

    Source: `MovingAverageMinMaxObserver` of torch.ao.quantization, whose averaging constant is
    0.01; after Jacob et al., CVPR 2018, section 3.1. The result depends on the order of the
    batches and on their size. It need not contain zero; see `MinMaxObserver`.
    """

    def __init__(self, averaging: float = 0.01) -> None:
        self.non_finite = 0
        self._averaging = averaging
        self._low, self._high = inf, -inf

    def add(self, values: NDArray[np.generic]) -> None:
        """See one batch: one call is one step of the average."""
        low, high, non_finite = _extremes(values)
        self.non_finite += non_finite
        if low > high:
            return
        if self._low > self._high:
            self._low, self._high = low, high
        else:
            self._low += self._averaging * (low - self._low)
            self._high += self._averaging * (high - self._high)

    def range(self, tensor: str) -> Range:
        """The averages."""
        _refuse(tensor, self.non_finite, empty=self._low > self._high)
        return Range(tensor, self._low, self._high)


class HistogramObserver:
    """A histogram, from which the range is chosen at the end.

    Attributes:
        histogram: of all batches; several methods may read one.
    """

    def __init__(self, options: CalibrationOptions, *, symmetric: bool) -> None:
        """Choose by `options.method`, for a signed symmetric quantizer or an unsigned one."""
        self.histogram = Histogram()
        self._options = options
        self._symmetric = symmetric

    @property
    def kept_bytes(self) -> int:
        """Of memory that it keeps."""
        return self.histogram.counts.nbytes

    @property
    def non_finite(self) -> int:
        """NaN and infinities so far."""
        return self.histogram.non_finite

    def add(self, values: NDArray[np.generic]) -> None:
        """See one batch."""
        self.histogram.add(values)

    def range(self, tensor: str) -> Range:
        """What the method chooses; zero is in it."""
        _refuse(tensor, self.non_finite, empty=self.histogram.count == 0)
        low, high = range_of(self.histogram, self._options, symmetric=self._symmetric)
        return Range(tensor, low, high)


def observer(options: CalibrationOptions, *, symmetric: bool) -> Observer:
    """A new observer, for one tensor.

    Args:
        options: the method, and what belongs to it.
        symmetric: whether the quantizer is signed with its zero in the middle (int8), or
            unsigned with a zero point (uint8). The extremes are the same for both.
    """
    if options.method in HISTOGRAM_METHODS:
        return HistogramObserver(options, symmetric=symmetric)
    if options.method == "moving-average":
        return MovingAverageObserver(options.averaging)
    return MinMaxObserver()


def _extremes(values: NDArray[np.generic]) -> tuple[float, float, int]:
    """The least and greatest finite value (crossed where there is none); how many are not."""
    least, greatest, non_finite = inf, -inf, 0
    for chunk in chunks(values):
        finite, low, high = finite_part(chunk)
        least, greatest = min(least, low), max(greatest, high)
        non_finite += chunk.size - finite.size
    return least, greatest, non_finite


def _refuse(tensor: str, non_finite: int, *, empty: bool) -> None:
    if non_finite:
        values = "value that is" if non_finite == 1 else "values that are"
        raise BadInputError(
            f"tensor {tensor!r} has {non_finite} {values} NaN or infinite on the calibration "
            "data; leave out the samples that cause it, or mend the network"
        )
    if empty:
        raise BadInputError(
            f"tensor {tensor!r} got no values during calibration; give at least one sample that "
            "reaches it"
        )
