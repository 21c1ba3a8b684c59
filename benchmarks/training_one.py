"""`python -m benchmarks.training_one JOB`: our training loop, a bare one, or both in turns.

In turns, an epoch of the bare loop runs after each of ours, in the same process, so that what slows
the machine for longer than that slows both.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks import packages
from deploykit.bench import memory
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from deploykit.load.data import Data
    from deploykit.train.objective import Step, Terms

OURS, BARE, TURNS = "ours", "bare", "turns"
RESNET_18 = "resnet18"
"""Torchvision's, on noise of 64 x 64 pixels; every other network is a folder of `models`."""
_SIDE, _CLASSES, _JUDGED = 64, 10, 512


@dataclass(frozen=True, slots=True)
class Job:
    """What one process trains.

    Attributes:
        way: `OURS`, `BARE`, or `TURNS`.
        network: a folder of `models`, or `RESNET_18`.
        epochs: the first of them warms up.
        images: of an epoch.
        batch: images of a step.
        precision: of `TrainOptions`.
        augmented: shifted by up to 2 pixels and mirrored.
        weights: file that the trained weights are written to, or "".
    """

    way: str
    network: str
    epochs: int
    images: int
    batch: int = 128
    precision: str = "float32"
    augmented: bool = False
    weights: str = ""

    @property
    def options(self) -> TrainOptions:
        """SGD with momentum, as `models/fashion_resnet` was trained."""
        return TrainOptions(
            epochs=self.epochs,
            batch_size=self.batch,
            precision=self.precision,
            label_smoothing=0.1,
            crop=2 if self.augmented else 0,
            flip=self.augmented,
        )


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time that passed, or a point in it.

    Attributes:
        cpu_s: of the processor, for this process; what else the machine does matters little.
        wall_s: of the clock.
    """

    cpu_s: float
    wall_s: float

    @classmethod
    def now(cls) -> Clocks:
        """From anywhere."""
        return cls(time.process_time(), time.perf_counter())

    def since(self, began: Clocks) -> Clocks:
        """What passed."""
        return Clocks(self.cpu_s - began.cpu_s, self.wall_s - began.wall_s)


@dataclass(slots=True)
class Took:
    """What it took.

    Attributes:
        ours: each epoch of ours but the first, without judging and keeping.
        judged: judging and keeping after each of them.
        bare: each epoch of the bare loop but the first.
        peak_bytes: of the process, beyond what it had after its imports.
        step_bytes: of our steps, beyond what was there before the first.
        foreseen_bytes: what they were foreseen to take.
        foreseeing_s: how long our loop tried out what fits before its first step.
    """

    ours: list[Clocks] = field(default_factory=list)
    judged: list[Clocks] = field(default_factory=list)
    bare: list[Clocks] = field(default_factory=list)
    peak_bytes: int = 0
    step_bytes: int = 0
    foreseen_bytes: int = 0
    foreseeing_s: float = 0.0


class Tap:
    """Told after each of our steps, and after each epoch once more: here time is read.

    Args:
        job: of the process.
        took: filled.
        other: the bare loop's epochs, or `None`.
    """

    def __init__(self, job: Job, took: Took, other: Iterator[float] | None) -> None:
        self._steps = job.images // job.batch
        self._took = took
        self._other = other
        self._calls = 0
        self._epochs = 0
        self._began = self._learnt = Clocks.now()

    def __call__(self, _text: str, _share: float | None) -> None:
        """The progress of `train`."""
        self._calls += 1
        if self._calls == self._steps:
            self._learnt = Clocks.now()
            self._took.step_bytes = memory.peak_bytes() or 0
        if self._calls <= self._steps:
            return
        if self._epochs:
            self._took.ours.append(self._learnt.since(self._began))
            self._took.judged.append(Clocks.now().since(self._learnt))
        if self._other is not None:
            self._took.bare += _timed(self._other, skipped=not self._epochs)
        self._epochs += 1
        self._calls = 0
        self._began = Clocks.now()


class _First:
    """The loss of labels alone; the first time it is asked, memory starts to count anew."""

    def __init__(self) -> None:
        self.began = 0.0
        self.peak_bytes = self.resident_bytes = 0

    def __call__(self, step: Step) -> Terms:
        from deploykit.train.objective import labels_alone

        if not self.began:
            self.began = time.perf_counter()
            self.peak_bytes = memory.peak_bytes() or 0
            self.resident_bytes = memory.start().rss_bytes or 0
        return labels_alone(step)


def do(job: Job) -> Took:
    """Train as the job says."""
    from deploykit.train import loop  # noqa: F401  (an import, whose memory is not training's)

    took, baseline = Took(), memory.start().rss_bytes or 0
    data, val = _data(job)
    other = None if job.way == OURS else _bare(job, data)
    before = 0
    if job.way == BARE:
        assert other is not None
        for epoch in range(job.epochs):
            took.bare += _timed(other, skipped=not epoch)
    else:
        before = _ours(job, (data, val), took, other)
    took.peak_bytes = max(before, memory.peak_bytes() or 0) - baseline
    return took


def _ours(job: Job, splits: tuple[Data, Data], took: Took, other: Iterator[float] | None) -> int:
    """Our loop; gives the peak of the process before its first step, in bytes."""
    import torch

    from deploykit.train.loop import train

    tap, loss, began = Tap(job, took, other), _First(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = train(
            network_of(job), *splits, job.options, folder=Path(folder), loss=loss, progress=tap
        )
    took.foreseeing_s = loss.began - began
    took.step_bytes -= loss.resident_bytes
    took.foreseen_bytes = _foreseen(job, splits[0])
    if job.weights and os.environ.get("RANK", "0") == "0":
        torch.save(done.module.state_dict(), job.weights)
    return loss.peak_bytes


def _bare(job: Job, data: Data) -> Iterator[float]:
    """The bare loop's epochs, on the same data."""
    import torch

    from benchmarks.training_bare import bare_epochs
    from deploykit.train.pixels import Pixels

    batch = data.batch(range(job.images))
    (images,), labels = batch.inputs.values(), batch.labels
    assert labels is not None
    pixels = Pixels.of(data.preprocessing) if job.augmented else None
    inputs = torch.from_numpy(images), torch.from_numpy(labels)
    return bare_epochs(network_of(job), *inputs, job.options, pixels)


def _timed(epochs: Iterator[float], *, skipped: bool) -> list[Clocks]:
    """The time of one more epoch of the bare loop, or none."""
    import torch

    # What our loop asks torch for is not asked of this one.
    strict = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=False)
    began = Clocks.now()
    next(epochs)
    took = Clocks.now().since(began)
    torch.use_deterministic_algorithms(mode=strict)
    return [] if skipped else [took]


def _foreseen(job: Job, data: Data) -> int:
    from deploykit.train.room import need_of
    from deploykit.train.samples import Samples
    from deploykit.train.tasks import task_for

    task = task_for(job.options, Samples.first(data, 2)[-1])
    return need_of(network_of(job), lambda count: Samples.first(data, count), task, job.options).of(
        job.batch
    )


def network_of(job: Job) -> nn.Module:
    """The network with fresh weights, always the same."""
    from deploykit.load.modules import load_source
    from deploykit.load.sources import Source
    from deploykit.nets.seeding import initial_weights

    with initial_weights(0):
        if job.network != RESNET_18:
            return load_source(Source(str(packages.ROOT / "models" / job.network))).module
        packages.on_path()
        from torchvision.models import resnet18

        return resnet18(num_classes=_CLASSES)  # type: ignore[no-any-return]  # torchvision has no types here


def _data(job: Job) -> tuple[Data, Data]:
    """What is learnt from, and a little to judge by."""
    import numpy as np

    from deploykit.load.arrays import ArrayData
    from deploykit.load.datasets import open_data

    if job.network != RESNET_18:
        train, val = (
            open_data(f"fashion-mnist:train[:{job.images}]"),
            f"fashion-mnist:val[:{_JUDGED}]",
        )
        return train, open_data(val)
    chance = np.random.default_rng(0)
    images = chance.standard_normal((job.images, 3, _SIDE, _SIDE), np.float32)
    labels = chance.integers(0, _CLASSES, job.images)
    few = slice(0, _JUDGED)
    return (
        ArrayData("noise", {"x": images}, labels),
        ArrayData("noise", {"x": images[few]}, labels[few]),
    )


def main(text: str) -> None:
    """Do the job that a JSON text describes; the main process prints what it took."""
    took = do(msgspec.json.decode(text, type=Job))
    if os.environ.get("RANK", "0") == "0":
        print(msgspec.json.encode(took).decode())


if __name__ == "__main__":
    main(sys.argv[1])
