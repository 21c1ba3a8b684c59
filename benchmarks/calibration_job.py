"""One calibration to do, and what came of it: shared by ours, the peer's and the benchmark.

Light, so that no process has more in memory than its own tool needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from benchmarks.in_child import ChildError, answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

FLOAT, EXPORT, STORED, BARE = "float", "export", "stored", "bare"
"""Beside the methods: a session of the float network, its export, all values stored, and the float
network run over the images, with nothing looked at."""
METHODS = ("min-max", "entropy", "percentile")
_LONGEST_S = 1800


@dataclass(frozen=True, slots=True)
class Job:
    """What a process does.

    Attributes:
        what: a method, or `FLOAT`, `EXPORT`, `STORED`.
        model: the float ONNX file.
        images: of the calibration.
        batch: images at once.
        size: height and width of one, in pixels.
    """

    what: str
    model: str
    images: int = 16
    batch: int = 16
    size: int = 224


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it said at its end.

    Attributes:
        seconds: from the model file to the ranges, without imports.
        cpu_seconds: of the processor, all threads.
        peak_bytes: the process's highest resident memory, from the kernel.
        growth_bytes: of it after the first 16 images.
        predicted_bytes: what it was predicted to be; `None` for the peer.
        activations_bytes: of all values of the float network for one batch.
        ranges: low, high and width of a bin (0 without a histogram), by tensor.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    growth_bytes: int = 0
    predicted_bytes: int | None = None
    activations_bytes: int = 0
    ranges: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def images(job: Job) -> Iterator[NDArray[np.float32]]:
    """Batches of drawn images, the same for everyone, made one at a time."""
    import numpy as np

    for start in range(0, job.images, job.batch):
        count = min(job.batch, job.images - start)
        draw = np.random.default_rng(start)
        yield draw.standard_normal((count, 3, job.size, job.size), dtype=np.float32)


def ask(module: str, job: Job) -> Outcome:
    """Run a job in a process of its own, on all cores.

    Raises:
        RuntimeError: it failed; the last line that it said.
    """
    text = msgspec.json.encode(job).decode()
    try:
        told = answer(module, text, environment={}, timeout_s=_LONGEST_S)
    except ChildError as error:
        raise RuntimeError(f"{module} {job}: {error}") from error
    return msgspec.json.decode(told, type=Outcome)


def job_of(argument: str) -> Job:
    """The job on a command line."""
    return msgspec.json.decode(argument, type=Job)


def tell(outcome: Outcome) -> None:
    """Say what came of it, as the last line."""
    print(msgspec.json.encode(outcome).decode(), flush=True)
