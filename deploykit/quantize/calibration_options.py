"""The options of calibration. Standard library only: recipes and help read them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError, nearest

HISTOGRAM_METHODS = ("percentile", "entropy", "mse")
METHODS = ("min-max", "moving-average", *HISTOGRAM_METHODS)


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """How ranges of activations are chosen.

    Attributes:
        method: "min-max": all that was seen. "moving-average": of the extremes of batches.
            "percentile": all but the outermost values. "entropy": the distribution changes least
            (Migacz, GTC 2017). "mse": the least squared error.
        percentile: for "percentile": share of the values that is kept on each side, in percent,
            above 50 and at most 100.
        bits: of the quantizer that the range is for, 2 to 8; "entropy" and "mse" depend on it.
        averaging: for "moving-average": weight of the newest batch, above 0 and at most 1.
    """

    method: str = "min-max"
    percentile: float = 99.99
    bits: int = 8
    averaging: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.method not in METHODS:
            raise BadInputError(
                f"no calibration method {self.method!r}{nearest(self.method, METHODS)}"
            )
        if not 50 < self.percentile <= 100:
            raise BadInputError(
                f"percentile is {self.percentile:g}; give the share of values to keep, in "
                "percent, above 50 and at most 100, such as 99.99"
            )
        if self.bits not in range(2, 9):
            raise BadInputError(f"bits is {self.bits}; give a whole number from 2 to 8")
        if not 0 < self.averaging <= 1:
            raise BadInputError(
                f"averaging is {self.averaging:g}; give the weight of the newest batch, above 0 "
                "and at most 1, such as 0.01"
            )
