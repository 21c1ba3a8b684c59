"""What a conversion to 16 bits is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.core.types import Option


@dataclass(frozen=True, slots=True)
class HalfRequest:
    """Everything that a conversion is asked for.

    Attributes:
        source: a float32 ONNX artifact: a folder or a file.
        out: the folder to make.
        precision: "fp16" or "bf16".
        calibrate: data that shows the ranges of activations, or "" for rules alone.
        changes: fields of `HalfOptions` that are not the default.
        val: data that parity runs on and the loss of accuracy is judged on, or "".
        eval: data that only reports, or "".
        metric: how data is scored, or "" for the usual one of its labels.
        max_drop: points on `val` that may be lost; `None` only reports.
        limit: on the relative difference, or `None` for 0.01 (fp16) or 0.05 (bf16).
        overwrite: whether an artifact at `out` may be replaced.
    """

    source: Path
    out: Path
    precision: str = "fp16"
    calibrate: str = ""
    changes: Mapping[str, Option] = field(default_factory=dict)
    val: str = ""
    eval: str = ""
    metric: str = ""
    max_drop: float | None = None
    limit: float | None = None
    overwrite: bool = False
