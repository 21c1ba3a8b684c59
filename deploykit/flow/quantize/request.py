"""What a quantization is asked for, and what it hands over."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from deploykit.flow.budget import DEFAULT_BUDGET
from deploykit.flow.folders import OURS
from deploykit.flow.quantize.record import QUANTIZATION_NAME, RANGES_NAME
from deploykit.flow.tables import options_from
from deploykit.quantize.calibration_options import CalibrationOptions
from deploykit.quantize.options import QuantizeOptions
from deploykit.quantize.place.saturation import resolved

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.core.report import Report
    from deploykit.core.types import OnnxArtifact, Option
    from deploykit.flow.quantize.record import Quantization

FILES = OURS | {RANGES_NAME, QUANTIZATION_NAME}


@dataclass(frozen=True, slots=True)
class QuantizeRequest:
    """Everything that a quantization is asked for.

    Attributes:
        source: a float ONNX artifact: a folder or a file.
        out: the folder to make.
        calibrate: data that shows the ranges of activations.
        changes: fields of `QuantizeOptions` and `CalibrationOptions` that are not the default.
        val: data that the loss of accuracy is judged on, or "".
        eval: data that only reports, or "".
        metric: how data is scored, or "" for the usual one of its labels.
        max_drop: points on `val` that may be lost; `None` only reports.
        measure: whether the latency is compared with the float network's, and layers that are
            slower in integers go back to float.
        batch: of that measurement; `None` takes the smallest.
        threads: of it; `None` leaves it to the runtime.
        force: hand over what is slower or loses too much, all the same: the best there is.
        overwrite: whether an artifact at `out` may be replaced.
        budget: of the search for what meets `max_drop`: "32" evaluations, or a time ("10m").
    """

    source: Path
    out: Path
    calibrate: str
    changes: Mapping[str, Option] = field(default_factory=dict)
    val: str = ""
    eval: str = ""
    metric: str = ""
    max_drop: float | None = None
    measure: bool = True
    batch: int | None = None
    threads: int | None = None
    force: bool = False
    overwrite: bool = False
    budget: str = DEFAULT_BUDGET

    def options(
        self, changes: Mapping[str, Option] | None = None
    ) -> tuple[QuantizeOptions, CalibrationOptions]:
        """The options of quantization and of calibration.

        Args:
            changes: beyond those of the request.

        Raises:
            BadInputError: one that is not known, or refused.
        """
        known = {f.name for f in fields(CalibrationOptions)}
        given = {**self.changes, **(changes or {})}
        mine = {name: value for name, value in given.items() if name not in known}
        theirs = {name: value for name, value in given.items() if name in known}
        return (
            resolved(options_from(mine, QuantizeOptions, "quantize")),
            options_from(theirs, CalibrationOptions, "quantize"),
        )


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What a quantization hands over.

    Attributes:
        artifact: in the folder that was asked for.
        report: its checks.
        quantization: its record.
    """

    artifact: OnnxArtifact
    report: Report
    quantization: Quantization
