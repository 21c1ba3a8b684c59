"""What TensorBoard shows of a run: loss, learning rate and accuracy, epoch by epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deploykit.train.events import FILE_NAME, Event, append, write
from deploykit.train.schedule import learning_rate

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.train.checkpoint import Checkpoint
    from deploykit.train.options import TrainOptions


class Curves:
    """The file of one run. It follows from the checkpoint, so that interruptions leave no trace.

    Args:
        folder: of its own, there already; TensorBoard calls the run by its name.
        options: of the run.
        per_epoch: steps an epoch.
    """

    def __init__(self, folder: Path, options: TrainOptions, per_epoch: int) -> None:
        self._folder = folder
        self._options = options
        self._per_epoch = per_epoch
        self._began_s = time.time()

    def begin(self, done: Checkpoint) -> None:
        """Write what is done so far, anew: a run that was killed may have written more, or half.

        Raises:
            EnvironmentFailedError: the folder cannot be written.
        """
        self._began_s = time.time() - sum(epoch.seconds for epoch in done.epochs)
        write(self._folder / FILE_NAME, self._events(done))

    def add_last(self, done: Checkpoint) -> None:
        """Add the last epoch that is done.

        Raises:
            EnvironmentFailedError: the folder cannot be written.
        """
        append(self._folder / FILE_NAME, self._events(done)[-1])

    def _events(self, done: Checkpoint) -> list[Event]:
        """One an epoch, counted from 1; 0 is the start. Times are those of training alone."""
        steps = self._options.epochs * self._per_epoch
        wall_s = self._began_s
        found = []
        if done.start_accuracy is not None:
            found.append(Event(0, wall_s, {"accuracy/val": done.start_accuracy}))
        for number, epoch in enumerate(done.epochs, start=1):
            wall_s += epoch.seconds
            last_step = number * self._per_epoch - 1
            scalars = {
                "loss/train": epoch.loss,
                "accuracy/val": epoch.val_accuracy,
                "learning_rate": learning_rate(self._options, last_step, steps),
            }
            found.append(Event(number, wall_s, scalars))
        return found
