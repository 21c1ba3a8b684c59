"""The record of a conversion to 16 bits: what is half, what stayed float32 and why."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass

from deploykit.core.records import Schema
from deploykit.core.types import Option  # noqa: TC001  (likewise)

HALF = Schema("deploykit/half")
HALF_NAME = "half.json"


@dataclass(frozen=True, slots=True)
class HalfRow:
    """One node that reads or makes float32 in the network that came in.

    Attributes:
        node: its name.
        op: its operator.
        kept_float: why it stayed float32, or "" where it computes in 16 bits.
    """

    node: str
    op: str
    kept_float: str = ""


@dataclass(frozen=True, slots=True)
class Half:
    """One conversion, whole.

    Attributes:
        precision: "fp16" or "bf16".
        target: whose kernels counted.
        layers: in the order of the graph.
        samples: of the calibration data that were seen; 0 where rules alone decided.
        bytes_before: of the float32 files.
        bytes_after: of the files that were made.
        options: how it was done, by name.
    """

    precision: str
    target: str
    layers: tuple[HalfRow, ...]
    samples: int
    bytes_before: int
    bytes_after: int
    options: Mapping[str, Option]
