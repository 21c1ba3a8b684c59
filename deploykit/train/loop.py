"""The one training loop: seeded, judged after every epoch, and able to go on where it stopped.

The network is any module that takes a batch and gives logits: a user's class, or the FX graph
that pruning makes. Accelerate places data and weights on the device at hand. Every draw of an
epoch depends on the seed and the epoch's number only, and the learning rate on the step's, so that
a checkpoint needs weights and the optimizer's state and nothing else. On one machine with one
number of threads, equal options give equal weights, interrupted or not.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from deploykit.core.errors import CheckFailedError, EnvironmentFailedError
from deploykit.core.progress import Progress, silent
from deploykit.train import checkpoint
from deploykit.train.augment import augment, black_of
from deploykit.train.checkpoint import Checkpoint, Epoch, Weights
from deploykit.train.curves import Curves
from deploykit.train.fit import in_layout, layout_for
from deploykit.train.losses import Loss, cross_entropy
from deploykit.train.optimizer import optimizer_for
from deploykit.train.samples import Samples, generator, in_order, shuffled
from deploykit.train.schedule import learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch.utils.data import DataLoader

    from deploykit.load.data import Data
    from deploykit.train.options import TrainOptions

Loader: TypeAlias = "DataLoader[tuple[Tensor, ...]]"

_EVAL_BATCH = 512


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A trained network and how it came about.

    Attributes:
        module: on the CPU, in evaluation mode, with the weights of the best epoch.
        val_accuracy: its share of right answers on the validation data, 0 to 1. The epoch was
            chosen by it, so it flatters a little: report the accuracy on other data.
        best_epoch: which epoch that was, counted from 0; `None`: the weights that training
            started from were never surpassed (with `TrainOptions.count_start` only).
        start_accuracy: of those weights on the validation data, 0 to 1; `None` where
            `TrainOptions.count_start` is off and they were not judged.
        epochs: all that were trained, in order.
        seconds: of all epochs, of earlier sittings too.
    """

    module: nn.Module
    val_accuracy: float
    best_epoch: int | None
    start_accuracy: float | None
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
    progress: Progress = silent,
) -> TrainResult:
    """Train a classifier and keep the epoch that is best on `val`.

    Args:
        module: where to start from; it is not changed.
        data: to learn from.
        val: drives the choice of the epoch, and nothing is learnt from it.
        options: how.
        folder: made if need be; holds the checkpoint of this very run (by options, data and
            initial weights), from which a second call with the same arguments goes on, and
            beside it a folder that TensorBoard shows (`tensorboard --logdir FOLDER`).
        loss: what to minimise; `None` is cross-entropy with the options' label smoothing.
        loss_key: names all that decides the result of `loss`, so that a checkpoint of another
            loss is not gone on with: code has no digest.
        progress: told after every step.

    Raises:
        BadInputError: the data does not fit training, or the checkpoint is damaged.
        CheckFailedError: the loss left the numbers.
        EnvironmentFailedError: the checkpoint cannot be written.
    """
    _make(folder)
    key = checkpoint.run_key(module, data, val, options, loss_key)
    path = folder / f"train-{key[:16]}.pt"
    done = checkpoint.load(path) if path.exists() else None
    if done is None or not done.is_final(options):
        with _deterministic():
            run = _Run.start(
                module, data, val, options, loss or cross_entropy(options.label_smoothing)
            )
            done = run.until_done(done, path, progress)
    assert done.best_accuracy is not None  # one epoch at least was judged
    trained = deepcopy(module).cpu()
    trained.load_state_dict(done.best)
    return TrainResult(
        module=trained.eval(),
        val_accuracy=done.best_accuracy,
        best_epoch=done.best_epoch,
        start_accuracy=done.start_accuracy,
        epochs=done.epochs,
        seconds=sum(epoch.seconds for epoch in done.epochs),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same from epoch to epoch."""

    accelerator: Accelerator
    net: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Loader
    val: Loader
    loss: Loss
    black: Tensor
    layout: torch.memory_format
    options: TrainOptions

    @classmethod
    def start(
        cls, module: nn.Module, data: Data, val: Data, options: TrainOptions, loss: Loss
    ) -> _Run:
        layout = layout_for(module, data, val)
        accelerator = Accelerator()
        net = deepcopy(module).to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs
        prepared, optimizer, batches, in_val = accelerator.prepare(
            net,
            optimizer_for(net, options),
            shuffled(Samples(data), options.batch_size, options.seed),
            in_order(Samples(val), _EVAL_BATCH),
        )
        black = black_of(data.preprocessing)
        return cls(accelerator, prepared, optimizer, batches, in_val, loss, black, layout, options)

    def until_done(self, done: Checkpoint | None, path: Path, progress: Progress) -> Checkpoint:
        if done is None:
            done = self._beginning(progress)
        else:
            self._plain_net().load_state_dict(done.weights)
            self.optimizer.load_state_dict(done.optimizer)
        curves = Curves(path.with_suffix(""), self.options, len(self.batches))
        if self.accelerator.is_main_process:
            _make(path.with_suffix(""))
            curves.begin(done)
        while not done.is_final(self.options):
            number, began = len(done.epochs), time.monotonic()
            mean_loss = self._learn(number, progress)
            accuracy = self._judge()
            epoch = Epoch(mean_loss, accuracy, time.monotonic() - began)
            done = done.after(epoch, self._weights(), self.optimizer.state_dict())
            if self.accelerator.is_main_process:
                curves.add_last(done)
                checkpoint.save(path, done)
            progress(
                f"epoch {number + 1}/{self.options.epochs}: loss {mean_loss:.4f}, "
                f"val accuracy {accuracy:.2%}",
                1.0 if done.is_final(self.options) else (number + 1) / self.options.epochs,
            )
        return done

    def _beginning(self, progress: Progress) -> Checkpoint:
        start_accuracy = None
        if self.options.count_start:
            progress("judging the weights to start from", None)
            start_accuracy = self._judge()
        optimizer: dict[str, object] = self.optimizer.state_dict()
        return Checkpoint((), weights := self._weights(), optimizer, weights, None, start_accuracy)

    def _learn(self, number: int, progress: Progress) -> float:
        options, per_epoch = self.options, len(self.batches)
        steps = options.epochs * per_epoch
        draws = generator(options.seed, number, self.accelerator.process_index + 1)
        # Dropout draws from the global generator.
        torch.manual_seed(int(torch.randint(1 << 62, (), generator=draws)))
        self.batches.set_epoch(number)  # type: ignore[attr-defined]  # Accelerate's own loader
        self.net.train()
        total = torch.zeros((), device=self.accelerator.device)
        for step, batch in enumerate(self.batches, start=number * per_epoch):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(options, step, steps)
            images = augment(batch[0], options, self.black, draws)
            inputs = tuple(in_layout(part, self.layout) for part in (images, *batch[1:-1]))
            with torch.autocast(
                self.accelerator.device.type,
                torch.bfloat16,
                enabled=options.precision == "bfloat16",
            ):
                loss = self.loss(self.net, inputs, batch[-1])
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            total += loss.detach()
            progress(f"epoch {number + 1}/{options.epochs}", (step + 1) / steps)
        mean_loss = float(total) / per_epoch
        if not math.isfinite(mean_loss):
            raise CheckFailedError(
                f"training left the numbers in epoch {number + 1} (loss {mean_loss}); "
                f"lower learning_rate, now {options.learning_rate}"
            )
        return mean_loss

    def _judge(self) -> float:
        """Share of right answers on `val`, in float32, as the network will be exported."""
        net = self._plain_net().eval()
        right, count = 0, 0
        with torch.inference_mode():
            for *inputs, labels in self.val:
                logits = net(*(in_layout(part, self.layout) for part in inputs))
                hits = self.accelerator.gather_for_metrics(logits.argmax(dim=1) == labels)
                right += int(hits.sum())
                count += len(hits)
        return right / count

    def _weights(self) -> Weights:
        return {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self._plain_net().state_dict().items()
        }

    def _plain_net(self) -> nn.Module:
        net: nn.Module = self.accelerator.unwrap_model(self.net)
        return net


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot make {folder}: {error.strerror}") from error


@contextmanager
def _deterministic() -> Iterator[None]:
    """Only algorithms that give the same result each time; the caller's settings come back."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.use_deterministic_algorithms(mode=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode=before)
