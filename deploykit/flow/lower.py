"""A float artifact in a lower precision: one door to INT8 and to 16 bits."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.core import records
from deploykit.core.report import Report
from deploykit.flow.cache import key_of
from deploykit.flow.folders import REPORT_NAME
from deploykit.flow.half.half import FILES as HALF_FILES
from deploykit.flow.half.half import run_half
from deploykit.flow.half.record import HALF, HALF_NAME, Half
from deploykit.flow.half.request import HalfRequest
from deploykit.flow.precision import INT8
from deploykit.flow.quantize.quantize import FILES, QuantizeRequest, run_quantize
from deploykit.flow.quantize.record import QUANTIZATION, QUANTIZATION_NAME, Quantization
from deploykit.flow.splits import check_limit
from deploykit.load.datasets import open_data

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.progress import Progress
    from deploykit.core.types import OnnxArtifact
    from deploykit.flow.cache import Cache
    from deploykit.flow.precision import Lower

LOWER_FILES = FILES | HALF_FILES
"""Names of all files that a folder of any precision may have."""


@dataclass(frozen=True, slots=True)
class Lowering:
    """What a float artifact shall become, and what it is judged by.

    Attributes:
        lower: the precision and its options.
        val: data that the loss of accuracy is judged on, or "".
        eval: data that only reports, or "".
        metric: how data is scored, or "".
    """

    lower: Lower
    val: str = ""
    eval: str = ""
    metric: str = ""

    def __post_init__(self) -> None:
        """Refuse a limit that nothing is held against."""
        check_limit(self.lower.loop.max_drop, self.val)

    def fill(self, source: Path, folder: Path, progress: Progress) -> None:
        """Make the artifact of `source` in an empty folder.

        Raises:
            BadInputError: the network cannot be taken lower, or data or options do not fit.
            CheckFailedError: what came out is slower, or lost too much.
            EnvironmentFailedError: it cannot be written or run.
        """
        loop = self.lower.loop
        if loop.precision != INT8:
            run_half(self._half(source, folder), progress)
            return
        request = QuantizeRequest(
            source=source,
            out=folder,
            calibrate=loop.calibrate,
            changes=self.lower.changes,
            val=self.val,
            eval=self.eval,
            metric=self.metric,
            max_drop=loop.max_drop,
            budget=loop.budget,
            measure=loop.measure,
            batch=loop.batch,
            threads=loop.threads,
            force=loop.force,
        )
        run_quantize(request, progress)

    def _half(self, source: Path, folder: Path) -> HalfRequest:
        loop = self.lower.loop
        return HalfRequest(
            source=source,
            out=folder,
            precision=loop.precision,
            calibrate=loop.calibrate,
            changes=self.lower.changes,
            val=self.val,
            eval=self.eval,
            metric=self.metric,
            max_drop=loop.max_drop,
        )

    def put(
        self, original: OnnxArtifact, folder: Path, cache: Cache | None, progress: Progress
    ) -> bool:
        """Put the files of the lower artifact into `folder`, from the cache where it is there.

        Returns:
            Whether it was.
        """
        if cache is None:
            place, had = folder / "lower", False
            self.fill(original.folder, place, progress)
        else:
            place, had = cache.get_or_make(
                self._key(original),
                lambda new: self.fill(original.folder, new, progress),
                _whole,
            )
        for file in place.iterdir():
            shutil.copyfile(file, folder / file.name)
        if cache is None:
            shutil.rmtree(place)
        return had

    def _key(self, original: OnnxArtifact) -> str:
        """Of everything that the result depends on."""
        import onnxruntime

        texts = (self.lower.loop.calibrate, self.val, self.eval)
        data = [open_data(text).digest() for text in texts if text]
        rest = (original.digest, original.inputs, onnxruntime.__version__)
        return key_of(__version__, "quantize", self.lower, self.metric, data, rest)


def _whole(folder: Path) -> Path:
    """The folder; `BadInputError` where it was damaged."""
    read_report(folder)
    read_record(folder)
    return folder


def read_report(folder: Path) -> Report:
    """The checks of an artifact."""
    return records.load(folder / REPORT_NAME, Report, records.REPORT)


def read_record(folder: Path) -> Quantization | Half:
    """What is in the lower precision, and what stayed float."""
    if (folder / HALF_NAME).is_file():
        return records.load(folder / HALF_NAME, Half, HALF)
    return records.load(folder / QUANTIZATION_NAME, Quantization, QUANTIZATION)


def joined(first: Report, second: Report) -> Report:
    """One report of a float export and of what was made of it."""
    earlier = (replace(check, name=f"float32 {check.name}") for check in first.checks)
    return replace(second, checks=(*earlier, *second.checks))
