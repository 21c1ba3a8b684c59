"""The one training loop: seeded, judged after every epoch, and able to go on where it stopped.

The network is any module: a user's class, or the FX graph that pruning makes. Accelerate places it
on the device at hand, or on several. On one machine with one number of threads, equal options give
equal weights, interrupted or not; with several processes they are those of one within rounding.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.utils import deterministic

from deploykit.core.errors import CheckFailedError, EnvironmentFailedError
from deploykit.core.progress import Progress, silent
from deploykit.load.callables import user_callable
from deploykit.train import checkpoint
from deploykit.train.checkpoint import Checkpoint, Epoch
from deploykit.train.curves import Curves
from deploykit.train.objective import labels_alone
from deploykit.train.run import Run
from deploykit.train.samples import Samples
from deploykit.train.scores import score_text
from deploykit.train.tasks import task_for
from deploykit.train.watch import Broken, Sums, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from deploykit.load.data import Data
    from deploykit.train.objective import Loss
    from deploykit.train.options import TrainOptions
    from deploykit.train.tasks import Own, Task

_LOOK_STEPS = 20
"""Losses stay on a device, or apart in several processes, for so many steps."""
_SAVE_S, _SAVE_SHARE = 30.0, 0.02
"""Within an epoch a checkpoint is written this often, and takes at most this share of the time."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A trained network and how it came about.

    Attributes:
        module: on the CPU, in evaluation mode, with the weights of the best epoch.
        val_score: of them on the validation data: the share of right answers, 0 to 1, or the loss
            with its sign turned; higher is better. The epoch was chosen by it, so it flatters a
            little: report the figure on other data.
        val_metric: "accuracy" or "loss", whichever that is.
        best_epoch: which epoch that was, counted from 0; `None`: the weights that training
            started from were never surpassed (with `TrainOptions.count_start` only).
        start_score: of those weights on the validation data; `None` where
            `TrainOptions.count_start` is off and they were not judged.
        epochs: all that were trained, in order.
        seconds: of all epochs, of earlier sittings too.
    """

    module: nn.Module
    val_score: float
    val_metric: str
    best_epoch: int | None
    start_score: float | None
    epochs: tuple[Epoch, ...]
    seconds: float


def train(
    module: nn.Module,
    data: Data,
    val: Data,
    options: TrainOptions,
    *,
    folder: Path,
    loss: Loss | None = None,
    loss_key: str = "",
    task: Task | None = None,
    base: Path | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Train a network and keep the epoch that is best on `val`.

    Args:
        module: where to start from; it is not changed.
        data: to learn from.
        val: drives the choice of the epoch, and nothing is learnt from it.
        options: how.
        folder: made if need be; holds the checkpoint of this very run (by options, data and
            initial weights), from which a second call with the same arguments goes on, and
            beside it a folder that TensorBoard shows (`tensorboard --logdir FOLDER`).
        loss: what to minimise; `None`: what the labels and the options ask for.
        loss_key: names all that decides the result of `loss`, so that a checkpoint of another
            loss is not gone on with: code has no digest.
        task: what outputs are judged by; `None`: what the labels and the options ask for. Named
            in `loss_key` like the loss.
        base: the folder that a `module:callable` in `options.loss` is found from; the working
            directory if `None`.
        progress: told after every step.

    Raises:
        BadInputError: the data does not fit training, or the checkpoint is damaged.
        CheckFailedError: the loss left the numbers.
        EnvironmentFailedError: the checkpoint cannot be written, or a step does not fit the memory.
    """
    _make(folder)
    task = task or _task(data, options, base or Path())
    key = checkpoint.run_key(module, data, val, options, loss_key)
    path = folder / f"train-{key[:16]}.pt"
    done = checkpoint.load(path, key) if path.exists() else None
    if done is None or not done.is_final(options):
        with _deterministic():
            run = Run.start(module, (data, val), options, loss or labels_alone, task)
            done = _Sitting(run, path, key, progress).until_done(done)
    assert done.best_score is not None  # one epoch at least was judged
    trained = deepcopy(module).cpu()
    trained.load_state_dict(done.best)
    return TrainResult(
        module=trained.eval(),
        val_score=done.best_score,
        val_metric=task.metric,
        best_epoch=done.best_epoch,
        start_score=done.start_score,
        epochs=done.epochs,
        seconds=sum(epoch.seconds for epoch in done.epochs),
    )


@dataclass(frozen=True, slots=True)
class _Sitting:
    """A run from where it stands to its end."""

    run: Run
    path: Path
    key: str
    progress: Progress

    def until_done(self, done: Checkpoint | None) -> Checkpoint:
        run, options = self.run, self.run.options
        if done is None:
            done = self._beginning()
        else:
            run.load(done.state)
        curves = Curves(self.path.with_suffix(""), options, run.per_epoch, run.task.metric)
        if run.accelerator.is_main_process:
            _make(self.path.with_suffix(""))
            curves.begin(done)
        try:
            return self._epochs(done, curves)
        finally:
            curves.end()

    def _epochs(self, done: Checkpoint, curves: Curves) -> Checkpoint:
        run, options = self.run, self.run.options
        while not done.is_final(options):
            number, began = len(done.epochs), time.monotonic() - done.seconds
            sums = self._learn(done, number)
            score = run.judge()
            if not math.isfinite(score):
                raise CheckFailedError(
                    f"the {run.task.metric} on the validation data is {score} after epoch "
                    f"{number + 1}; look for NaN in that data, or lower learning_rate, now "
                    f"{options.learning_rate}"
                )
            epoch = Epoch(*sums.mean(), score, time.monotonic() - began)
            done = done.after(epoch, run.state(), run.judged_weights())
            if run.accelerator.is_main_process:
                checkpoint.save(self.path, done, self.key)
                curves.add_last(done)
            self.progress(
                f"epoch {number + 1}/{options.epochs}: {_loss_text(epoch)}, "
                f"val {score_text(score, run.task.metric)}",
                1.0 if done.is_final(options) else (number + 1) / options.epochs,
            )
        return done

    def _beginning(self) -> Checkpoint:
        start_score = None
        if self.run.options.count_start:
            self.progress("judging the weights to start from", None)
            start_score = self.run.judge()
        return Checkpoint((), self.run.state(), self.run.judged_weights(), None, start_score)

    def _learn(self, done: Checkpoint, epoch: int) -> Sums:
        """The rest of an epoch."""
        run = self.run
        first, steps = done.sums.batches, run.options.epochs * run.per_epoch
        run.order.begin(epoch, first)
        run.learning.train()
        watch = Watch(done.sums, run.mean)
        together = run.accelerator.num_processes == 1 and run.accelerator.device.type == "cpu"
        began = time.monotonic()
        saved, least = began, _SAVE_S
        for number, batch in enumerate(run.batches, start=first):
            watch.add(run.step(batch, epoch, number))
            if together or (number + 1) % _LOOK_STEPS == 0 or number + 1 == run.per_epoch:
                broken = watch.look()
                if broken is not None:
                    raise CheckFailedError(self._broken_text(broken, epoch))
                now = time.monotonic()
                if run.accelerator.is_main_process and now - saved >= least:
                    seconds = done.seconds + now - began
                    part = done.within(run.state(), watch.sums, seconds)
                    checkpoint.save(self.path, part, self.key)
                    saved = time.monotonic()
                    least = max(_SAVE_S, (saved - now) / _SAVE_SHARE)
            share = (epoch * run.per_epoch + number + 1) / steps
            self.progress(f"epoch {epoch + 1}/{run.options.epochs}", share)
        return watch.sums

    def _broken_text(self, broken: Broken, epoch: int) -> str:
        """Which batch and which part it was, and what may be the reason."""
        run, data = self.run, cast("Samples", self.run.batches.dataset).data
        parts = broken.parts
        text = f"the loss left the numbers in epoch {epoch + 1}, batch {broken.batch + 1}"
        if len(parts) > 1:
            said = ", ".join(f"{name} {part.value:.4g}" for name, part in parts.items())
            text += f", in its part {broken.part!r} ({said})"
        else:
            text += f" ({broken.part} {parts[broken.part].value})"
        row = _no_number(data, run.order.rows(epoch, broken.batch))
        if row is not None:
            text += f": sample {row} of {data.name} has NaN or infinite values"
        else:
            text += f"; lower learning_rate, now {run.options.learning_rate}"
            text += "" if run.options.clip_norm else ", or set clip_norm = 1.0"
        kept = f"; {self.path} keeps the last good step" if self.path.exists() else ""
        return text + kept


def _no_number(data: Data, rows: list[int]) -> int | None:
    """The first of these samples with a value that is no number."""
    for row in rows:
        batch = data.batch([row])
        arrays = [*batch.inputs.values(), *([] if batch.labels is None else [batch.labels])]
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
            return row
    return None


def _loss_text(epoch: Epoch) -> str:
    if len(epoch.parts) < 2:
        return f"loss {epoch.loss:.4f}"
    said = ", ".join(f"{name} {part.value:.4f}" for name, part in epoch.parts.items())
    return f"loss {epoch.loss:.4f} ({said})"


def _task(data: Data, options: TrainOptions, base: Path) -> Task:
    own = None
    if options.loss and ":" in options.loss[0]:
        own = cast("Own", user_callable(options.loss[0], base))
    return task_for(options, Samples.first(data, 2)[-1], own)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot make {folder}: {error.strerror}") from error


@contextmanager
def _deterministic() -> Iterator[None]:
    """Only algorithms that give the same result each time; the caller's settings come back.

    With them torch fills all fresh memory with NaN too, for programs that read what they never
    wrote: up to a seventh of a step, which a sound network has nothing from.
    """
    before = torch.are_deterministic_algorithms_enabled()
    filled = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # a property that torch gives the module
    with torch.random.fork_rng():
        torch.use_deterministic_algorithms(mode=True)
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # likewise
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode=before)
            deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]  # likewise
