"""What TensorBoard shows of a run: loss and its parts, learning rate and score, epoch by epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from tensorboardX import SummaryWriter

from deploykit.core.errors import EnvironmentFailedError
from deploykit.train.schedule import learning_rate

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.train.checkpoint import Checkpoint
    from deploykit.train.options import TrainOptions


class Point(NamedTuple):
    """What is shown at one place of the horizontal axis.

    Attributes:
        epoch: the place, counted from 1; 0 is the start.
        wall_s: when that was, in seconds since 1970.
        scalars: values by tag; the part of a tag before "/" names the panel.
    """

    epoch: int
    wall_s: float
    scalars: dict[str, float]


class Curves:
    """The file of one run. It follows from the checkpoint, so that interruptions leave no trace.

    Args:
        folder: of its own, there already; TensorBoard calls the run by its name.
        options: of the run.
        per_epoch: steps an epoch.
        metric: what epochs are chosen by.
    """

    def __init__(self, folder: Path, options: TrainOptions, per_epoch: int, metric: str) -> None:
        self._folder = folder
        self._options = options
        self._per_epoch = per_epoch
        self._metric = metric
        self._began_s = time.time()
        self._writer: SummaryWriter | None = None

    def begin(self, done: Checkpoint) -> None:
        """Write what is done so far, anew: a run that was killed may have written more, or half.

        Raises:
            EnvironmentFailedError: the folder cannot be written.
        """
        self._began_s = time.time() - sum(epoch.seconds for epoch in done.epochs)
        try:
            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = SummaryWriter(str(self._folder))
        except OSError as error:
            raise EnvironmentFailedError(
                f"cannot write {self._folder}: {error.strerror}"
            ) from error
        for point in self.points(done):
            self._show(point)

    def add_last(self, done: Checkpoint) -> None:
        """Add the last epoch that is done."""
        self._show(self.points(done)[-1])

    def end(self) -> None:
        """Nothing more comes."""
        if self._writer is not None:
            self._writer.close()

    def points(self, done: Checkpoint) -> list[Point]:
        """All that is shown of a run; times are those of training alone."""
        steps = self._options.epochs * self._per_epoch
        wall_s = self._began_s
        found = []
        if done.start_score is not None:
            found.append(Point(0, wall_s, self._score(done.start_score)))
        for number, epoch in enumerate(done.epochs, start=1):
            wall_s += epoch.seconds
            last_step = number * self._per_epoch - 1
            scalars = {"loss/train": epoch.loss, **self._score(epoch.val_score)}
            if len(epoch.parts) > 1:
                for name, part in epoch.parts.items():
                    scalars[f"loss/{name}"] = part.value
                    scalars[f"weight/{name}"] = part.weight
            scalars["learning_rate"] = learning_rate(self._options, last_step, steps)
            found.append(Point(number, wall_s, scalars))
        return found

    def _score(self, score: float) -> dict[str, float]:
        """Losses are shown as they are, not as scores, of which higher ones are better."""
        loss = self._metric == "loss"
        return {f"{self._metric}/val": -score if loss else score}

    def _show(self, point: Point) -> None:
        assert self._writer is not None  # begun
        for tag, value in point.scalars.items():
            self._writer.add_scalar(tag, value, point.epoch, walltime=point.wall_s)
        self._writer.flush()
