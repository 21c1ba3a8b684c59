"""`python -m benchmarks.int8_one JOB`: one float network quantized by one tool, and judged.

In a process of its own: no tool meets what another has imported, patched or left in memory.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.in_child import ONE_THREAD, ChildError, answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploykit.core.types import Option
    from deploykit.load.data import Array

FLOAT, OURS, ORT, NNCF = "float", "deploykit", "ONNX Runtime", "NNCF"
_BATCH = 50  # judged at once: at most what the reference networks declare


@dataclass(frozen=True, slots=True)
class Job:
    """One network to quantize.

    Attributes:
        tool: `OURS`, `ORT` or `NNCF`, or `FLOAT` for the network as it is.
        model: a float ONNX file.
        calibrate: data that shows the ranges.
        out: where the quantized file shall stay, or "".
        way: of a peer: see `WAYS` of its module.
        changes: of ours: options that are not the default.
        judge: data with labels that the result is run on.
        measure: whether ours may measure float and INT8, to give back what is slower.
    """

    tool: str
    model: str
    calibrate: str
    out: str = ""
    way: str = ""
    changes: dict[str, str | int | float | bool] = field(default_factory=dict)
    judge: tuple[str, ...] = ()
    measure: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What came of it.

    Attributes:
        right: for each data of `judge`, a byte a sample: 1 where it was right.
        seconds: that quantization took.
        why: it failed, in one line; "" where it did not.
    """

    right: tuple[bytes, ...] = ()
    seconds: float = 0.0
    why: str = ""

    def count_right(self, number: int) -> int:
        """Samples of one data that were right."""
        return sum(self.right[number])

    def share(self, number: int) -> float:
        """The same as a percentage."""
        return 100.0 * self.count_right(number) / len(self.right[number])


def ask(job: Job) -> Made:
    """Do a job in a child process; what a tool raises is an outcome, too."""
    environment = {**ONE_THREAD, "TQDM_DISABLE": "1"}
    try:
        told = answer("benchmarks.int8_one", _text(job), environment=environment)
    except ChildError as error:
        return Made(why=str(error)[:300])
    return msgspec.json.decode(told, type=Made)


def make(job: Job, folder: Path) -> Made:
    """Quantize and judge here.

    Args:
        job: what to do.
        folder: for what does not stay.
    """
    began = time.monotonic()
    artifact = _quantized(job, folder)
    seconds = time.monotonic() - began
    return Made(tuple(_right(artifact, text) for text in job.judge), seconds)


def _quantized(job: Job, folder: Path) -> Path:
    """The file or folder that is run."""
    if job.tool == FLOAT:
        return Path(job.model)
    if job.tool == OURS:
        return _ours(job, Path(job.out or folder / "ours"))
    out = Path(job.out or folder / "model.onnx")
    out.parent.mkdir(parents=True, exist_ok=True)
    if job.tool == ORT:
        from benchmarks.peers.int8_ort import quantize
    else:
        from benchmarks.peers.int8_nncf import quantize
    quantize(Path(job.model), _samples(job), out, job.way)
    return out


def _ours(job: Job, out: Path) -> Path:
    """As `deploykit quantize` does it, with everything at its default but `changes`."""
    from deploykit.flow.quantize.quantize import QuantizeRequest, run_quantize

    changes: Mapping[str, Option] = job.changes
    run_quantize(
        QuantizeRequest(
            Path(job.model),
            out,
            job.calibrate,
            changes=changes,
            measure=job.measure,
            batch=1 if job.measure else None,
            threads=1,
            force=True,
            overwrite=True,
        )
    )
    return out


def _samples(job: Job) -> list[dict[str, Array]]:
    """Feeds of one sample each."""
    from deploykit.load.artifacts import load_artifact
    from deploykit.load.data import feeds
    from deploykit.load.datasets import open_data

    data, inputs = open_data(job.calibrate), load_artifact(Path(job.model)).inputs
    return [feeds(data.batch([row]), inputs, data.name) for row in range(len(data))]


def _right(artifact: Path, text: str) -> bytes:
    from deploykit.check.accuracy import accuracy
    from deploykit.check.metrics import TOP_1
    from deploykit.core.measurement import Target
    from deploykit.load.artifacts import load_artifact
    from deploykit.load.datasets import open_data
    from deploykit.runtimes.ort import CPU

    loaded = load_artifact(artifact)
    session = CPU.open(loaded, Target("ort-cpu", threads=1))
    try:
        found = accuracy(
            lambda fed: session.bind(fed)(), open_data(text), loaded.inputs, TOP_1, _BATCH
        )
    finally:
        session.close()
    return found.scores.astype("uint8").tobytes()


def _text(job: Job) -> str:
    return msgspec.json.encode(job).decode()


def main(text: str) -> None:
    """Do the job that a JSON text describes and print what came of it, as the last line."""
    job = msgspec.json.decode(text, type=Job)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        made = make(job, Path(folder))
    print(msgspec.json.encode(made).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
