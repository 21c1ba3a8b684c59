"""The record of a quantization: what is in integers, what stayed float and why, what was tried."""

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
        snr_db: of its result in the quantized network against the float one, all noise up to
            there in it: ten times the decimal logarithm of the ratio of the sums of squares, at
            most 150; `None` where it was not compared, or the result is nothing but zeros.
        alone_db: the same where it alone is quantized: its own part of the noise.
    """

    node: str
    op: str
    kept_float: str = ""
    snr_db: float | None = None
    alone_db: float | None = None


@dataclass(frozen=True, slots=True)
class TryRow:
    """One way to quantize that accuracy control tried.

    Attributes:
        what: in words: "as asked", "method mse", "3 layers in float".
        changes: options that differ from those asked for.
        floats: layers given back to float.
        lost: on the validation data: points where it is a share, else in the metric's unit;
            `None` where it could not be judged.
        samples: that it was judged on: a verdict needs all.
        met: whether it lost no more than was allowed.
    """

    what: str
    changes: Mapping[str, Option]
    floats: tuple[str, ...]
    lost: float | None
    samples: int
    met: bool


@dataclass(frozen=True, slots=True)
class LeftoverRow:
    """A node of ONNX Runtime's optimised graph that quantization put there in vain.

    Attributes:
        node: its name.
        op: its operator.
        why: no integer kernel took it.
    """

    node: str
    op: str
    why: str


@dataclass(frozen=True, slots=True)
class Quantization:
    """One quantization, whole.

    Attributes:
        target: whose kernels counted.
        layers: least signal-to-noise ratio first; those without one follow in the graph's order.
        samples: of the calibration data that were seen.
        options: how it was done, by name.
        tries: what accuracy control tried, in order; empty where nothing limits the loss.
        control: what came of it, in a sentence; "" where nothing limits the loss.
        leftovers: what no integer kernel took, and why; empty where nobody looked.
    """

    target: str
    layers: tuple[LayerRow, ...]
    samples: int
    options: Mapping[str, Option]
    tries: tuple[TryRow, ...] = ()
    control: str = ""
    leftovers: tuple[LeftoverRow, ...] = ()
