"""NNCF's post-training quantization of an ONNX file, as its documentation has it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import deploykit.runtimes  # noqa: F401  (before onnxruntime: it switches off telemetry)
from benchmarks.peers import int8_packages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deploykit.load.data import Array


@dataclass(frozen=True, slots=True)
class Way:
    """Options of `nncf.quantize`.

    Attributes:
        preset: of `QuantizationPreset`: PERFORMANCE is symmetric throughout, MIXED has asymmetric
            activations.
        transformer: whether it is told that the network is one (`ModelType`).
        full_range: without its guard against overflow in the first layer, which CPUs with VNNI or
            AMX do not need.
        accurate: the slow bias correction in place of the fast one.
    """

    preset: str = "PERFORMANCE"
    transformer: bool = False
    full_range: bool = False
    accurate: bool = False


WAYS = {
    "performance": Way(),
    "mixed": Way("MIXED"),
    "mixed, full range": Way("MIXED", full_range=True),
    "mixed, accurate": Way("MIXED", accurate=True),
    "transformer": Way(transformer=True),
}


def quantize(model: Path, feeds: Sequence[Mapping[str, Array]], out: Path, way: str) -> None:
    """Write an INT8 model.

    Args:
        model: a float ONNX file.
        feeds: samples of one image each: what its statistics are meant to be taken from.
        out: the file to write.
        way: of `WAYS`.
    """
    int8_packages.on_path()
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
    )

    logging.getLogger("nncf").setLevel(logging.ERROR)
    options = WAYS[way]
    advanced = AdvancedQuantizationParameters()
    if options.full_range:
        advanced.overflow_fix = OverflowFix.DISABLE
    quantized = nncf.quantize(
        onnx.load(str(model)),
        nncf.Dataset([dict(fed) for fed in feeds]),
        preset=nncf.QuantizationPreset[options.preset],
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(feeds),
        fast_bias_correction=not options.accurate,
        model_type=nncf.ModelType.TRANSFORMER if options.transformer else None,
        advanced_parameters=advanced,
    )
    onnx.save(quantized, str(out))
