"""The options of calibration. Standard library only: recipes and help read them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deploykit.core.errors import BadInputError, nearest

HISTOGRAM_METHODS = ("percentile", "entropy", "mse")
METHODS = ("min-max", "moving-average", *HISTOGRAM_METHODS)
_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


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
        memory: that the process may take while it calibrates, such as "2GB"; "" takes what the
            machine, and the container, have.
    """

    method: str = "min-max"
    percentile: float = 99.99
    bits: int = 8
    averaging: float = 0.01
    memory: str = ""

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
        _ = self.memory_bytes

    @property
    def memory_bytes(self) -> int:
        """What `memory` says; 0 where it says nothing.

        Raises:
            BadInputError: it is no size.
        """
        if not self.memory:
            return 0
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", self.memory.strip(), re.IGNORECASE)
        size = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
        if not size:
            raise BadInputError(f"memory {self.memory!r} is no size; give one such as 2GB or 800MB")
        return size
