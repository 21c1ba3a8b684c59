"""What half precision asks of calibration: the extremes of every float32 value."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from deploykit.core.errors import BadInputError
from deploykit.quantize.half.known import FLOAT
from deploykit.quantize.ranges import Range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deploykit.quantize.half.known import Known


class FiniteExtremes:
    """The least and greatest finite value; NaN is refused.

    Infinities are the same in 16 bits: a mask of them is no reason against it.
    """

    def __init__(self) -> None:
        self.non_finite = 0
        self._low, self._high = inf, -inf

    def add(self, values: NDArray[np.generic]) -> None:
        """See one batch."""
        wide = np.asarray(values)
        self.non_finite += int(np.isnan(wide).sum())
        finite = wide[np.isfinite(wide)]
        if finite.size:
            self._low = min(self._low, float(finite.min()))
            self._high = max(self._high, float(finite.max()))

    def range(self, tensor: str) -> Range:
        """The extremes of all batches; 0 to 0 where nothing finite was there.

        Raises:
            BadInputError: there was NaN.
        """
        if self.non_finite:
            raise BadInputError(
                f"tensor {tensor!r} has {self.non_finite} NaN on the calibration data; leave out "
                "the samples that cause it, or mend the network"
            )
        low, high = (self._low, self._high) if self._low <= self._high else (0.0, 0.0)
        return Range(tensor, low, high)


def wanted_values(known: Known) -> tuple[str, ...]:
    """Names of all float32 inputs and activations, in the order of the graph."""
    graph = known.graph
    names = [value.name for value in graph.frame.graph.input]
    names += [name for node in graph.nodes for name in node.output if name]
    return tuple(name for name in names if known.types.get(name) == FLOAT)
