"""Ranges: what calibration found out about every tensor, in a file that placement reads.

Ranges from elsewhere (quantization-aware training, another tool) come in through the same file.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from deploykit.core.errors import BadInputError
from deploykit.core.records import Schema

RANGES = Schema("deploykit/ranges")


@dataclass(frozen=True, slots=True)
class Range:
    """The values of one tensor that are worth telling apart.

    Attributes:
        tensor: its name in the float graph.
        low: the lowest; what is below it is clipped.
        high: the highest, not below `low`.
    """

    tensor: str
    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse what no quantizer can be made of."""
        if not (isfinite(self.low) and isfinite(self.high)) or self.low > self.high:
            raise BadInputError(
                f"the range of {self.tensor} is {self.low:g} to {self.high:g}; it has to be finite "
                "and ascending"
            )


@dataclass(frozen=True, slots=True)
class Ranges:
    """All ranges of one graph.

    Attributes:
        model: SHA-256, in hex, of the float model file that they were measured on.
        method: how they were chosen: "min-max", "moving-average", "percentile", "entropy", "mse",
            or where they come from.
        samples: how many were seen.
        data: SHA-256, in hex, of the data, or "" where it is not known.
        tensors: in the order of the graph.
    """

    model: str
    method: str
    samples: int
    data: str
    tensors: tuple[Range, ...]

    @property
    def by_name(self) -> dict[str, Range]:
        """Ranges by the name of their tensor."""
        return {one.tensor: one for one in self.tensors}
