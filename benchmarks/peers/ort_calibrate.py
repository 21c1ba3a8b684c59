"""`python -m benchmarks.peers.ort_calibrate JOB`: one calibration by ONNX Runtime's own quantizer.

As `quantize_static` does it at its defaults: all operators that it has a quantizer for, the
calibrator of the method with its own options, the whole data in one `collect_data`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.calibration_job import FLOAT, Job, Outcome, images, job_of, tell
from deploykit.bench import memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Reader:
    """What the calibrators read batches from (`CalibrationDataReader`)."""

    def __init__(self, job: Job, name: str) -> None:
        self._batches, self._name = images(job), name

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch, or `None` at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def main(job: Job) -> None:
    """Do it, and say what came of it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at the first import
    import onnxruntime
    from onnxruntime import quantization

    if job.what == FLOAT:
        session = onnxruntime.InferenceSession(job.model, providers=["CPUExecutionProvider"])
        peak = memory.peak_bytes() or 0
        del session
        tell(Outcome(peak_bytes=peak))
        return
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.perf_counter(), time.process_time()
        with Path(os.devnull).open("w") as nobody, redirect_stdout(nobody):
            found = _ranges(quantization, job, Path(folder))
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    tell(
        Outcome(
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            peak_bytes=memory.peak_bytes() or 0,
            ranges=found,
        )
    )


def _ranges(quantization: Any, job: Job, folder: Path) -> dict[str, tuple[float, float, float]]:
    import onnx
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    method = {
        "min-max": quantization.CalibrationMethod.MinMax,
        "entropy": quantization.CalibrationMethod.Entropy,
        "percentile": quantization.CalibrationMethod.Percentile,
    }[job.what]
    name = onnx.load(job.model).graph.input[0].name
    calibrator = quantization.create_calibrator(
        Path(job.model),
        list({*QLinearOpsRegistry, *QDQRegistry}),
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=method,
    )
    calibrator.collect_data(Reader(job, name))
    found = calibrator.compute_data()
    return {
        tensor: (_number(one.range_value[0]), _number(one.range_value[1]), 0.0)
        for tensor, one in found.items()
    }


def _number(end: Any) -> float:
    """An end of a range, which is an array of no or of one dimension."""
    return float(end.reshape(-1)[0])


if __name__ == "__main__":
    main(job_of(sys.argv[1]))
