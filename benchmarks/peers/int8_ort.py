"""ONNX Runtime's own static quantizer, as its documentation has it.

`quant_pre_process` first, then `quantize_static` to QDQ with one scale a channel of the weights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import deploykit.runtimes  # noqa: F401  (before onnxruntime: it switches off telemetry)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deploykit.load.data import Array


@dataclass(frozen=True, slots=True)
class Way:
    """Options of `quantize_static`.

    Attributes:
        method: of calibration, a name of `CalibrationMethod`.
        signed: whether activations are int8; else uint8.
    """

    method: str = "MinMax"
    signed: bool = False


WAYS = {
    "min-max": Way(),
    "min-max, int8": Way(signed=True),
    "entropy": Way("Entropy"),
    "percentile": Way("Percentile"),
}


class _Reader:
    """Calibration data as ONNX Runtime asks for it, sample by sample."""

    def __init__(self, feeds: Sequence[Mapping[str, Array]]) -> None:
        self._feeds = feeds
        self._next = 0

    def get_next(self) -> dict[str, Array] | None:
        """The next sample, or `None` after the last."""
        if self._next == len(self._feeds):
            return None
        self._next += 1
        return dict(self._feeds[self._next - 1])

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Only these samples; asked for where a stride of calibration is set."""
        self._feeds, self._next = self._feeds[start_index:end_index], 0


def quantize(model: Path, feeds: Sequence[Mapping[str, Array]], out: Path, way: str) -> None:
    """Write an INT8 model.

    Args:
        model: a float ONNX file.
        feeds: samples of one image each.
        out: the file to write; a file beside it is used in between.
        way: of `WAYS`.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)  # it warns of what `quant_pre_process` just did
    options = WAYS[way]
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared),
        str(out),
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8 if options.signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=CalibrationMethod[options.method],
    )
    prepared.unlink()
