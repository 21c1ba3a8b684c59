"""The record of a quantization: what is in integers, what stayed float and why."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass

from deploykit.core.records import Schema
from deploykit.core.types import Option  # noqa: TC001  (likewise)

QUANTIZATION = Schema("deploykit/quantization")
QUANTIZATION_NAME = "quantization.json"
RANGES_NAME = "ranges.json"


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One node that the target has an integer kernel for.

    Attributes:
        node: its name.
        op: its operator.
        kept_float: why it stayed float, or "" where it is quantized.
    """

    node: str
    op: str
    kept_float: str = ""


@dataclass(frozen=True, slots=True)
class Quantization:
    """One quantization, whole.

    Attributes:
        target: whose kernels counted.
        layers: in the order of the graph.
        samples: of the calibration data that were seen.
        options: how it was done, by name.
    """

    target: str
    layers: tuple[LayerRow, ...]
    samples: int
    options: Mapping[str, Option]
