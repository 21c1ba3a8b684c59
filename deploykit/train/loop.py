"""The one training loop: seeded, judged after every epoch, and able to go on where it stopped.

Accelerate places data and weights on the device at hand. Every draw of an epoch depends on the
seed and the epoch's number only, and the learning rate on the step's, so that a checkpoint needs
weights and the optimizer's state and nothing else. On one machine with one number of threads,
equal options give equal weights, interrupted or not.
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

from deploykit.core.errors import BadInputError, CheckFailedError, EnvironmentFailedError
from deploykit.core.progress import Progress, silent
from deploykit.train import checkpoint
from deploykit.train.augment import augment, black_of
from deploykit.train.checkpoint import Checkpoint, Epoch
from deploykit.train.losses import Loss, cross_entropy
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
        best_epoch: which epoch that was, counted from 0.
        epochs: all of them, in order.
        seconds: of all epochs, of earlier sittings too.
    """

    module: nn.Module
    val_accuracy: float
    best_epoch: int
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
    progress: Progress = silent,
) -> TrainResult:
    """Train a classifier and keep the epoch that is best on `val`.

    Args:
        module: where to start from; it is not changed.
        data: to learn from.
        val: drives the choice of the epoch, and nothing is learnt from it.
        options: how.
        folder: made if need be; holds the checkpoint of this very run (by options, data and
            initial weights), from which a second call with the same arguments goes on. A loss
            of one's own needs a folder of its own: code has no digest.
        loss: what to minimise; `None` is cross-entropy with the options' label smoothing.
        progress: told after every step.

    Raises:
        BadInputError: the data does not fit training, or the checkpoint is damaged.
        CheckFailedError: the loss left the numbers.
        EnvironmentFailedError: the checkpoint cannot be written.
    """
    _make(folder)
    path = folder / f"train-{checkpoint.run_key(module, data, val, options)[:16]}.pt"
    done = checkpoint.load(path) if path.exists() else None
    if done is None or len(done.epochs) < options.epochs:
        with _deterministic():
            run = _Run.start(
                module, data, val, options, loss or cross_entropy(options.label_smoothing)
            )
            done = run.until_done(done, path, progress)
    trained = deepcopy(module).cpu()
    trained.load_state_dict(done.best)
    return TrainResult(
        module=trained.eval(),
        val_accuracy=done.epochs[done.best_epoch].val_accuracy,
        best_epoch=done.best_epoch,
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
    options: TrainOptions

    @classmethod
    def start(
        cls, module: nn.Module, data: Data, val: Data, options: TrainOptions, loss: Loss
    ) -> _Run:
        for split in (data, val):
            _check_fit(module, split)
        accelerator = Accelerator()
        # Channels last is the layout that convolutions on CPUs and GPUs are fastest in.
        net = deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        prepared, optimizer, batches, in_val = accelerator.prepare(
            net,
            _optimizer(net, options),
            shuffled(Samples(data), options.batch_size, options.seed),
            in_order(Samples(val), _EVAL_BATCH),
        )
        black = black_of(data.preprocessing)
        return cls(accelerator, prepared, optimizer, batches, in_val, loss, black, options)

    def until_done(self, done: Checkpoint | None, path: Path, progress: Progress) -> Checkpoint:
        if done is not None:
            self._plain_net().load_state_dict(done.weights)
            self.optimizer.load_state_dict(done.optimizer)
        for number in range(len(done.epochs) if done else 0, self.options.epochs):
            began = time.monotonic()
            mean_loss = self._learn(number, progress)
            accuracy = self._judge()
            epoch = Epoch(mean_loss, accuracy, time.monotonic() - began)
            done = self._checkpoint(done, epoch)
            if self.accelerator.is_main_process:
                checkpoint.save(path, done)
            progress(
                f"epoch {number + 1}/{self.options.epochs}: loss {mean_loss:.4f}, "
                f"val accuracy {accuracy:.2%}",
                (number + 1) / self.options.epochs,
            )
        assert done is not None  # options.epochs is at least 1
        return done

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
            inputs = tuple(_channels_last(part) for part in (images, *batch[1:-1]))
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
                logits = net(*(_channels_last(part) for part in inputs))
                hits = self.accelerator.gather_for_metrics(logits.argmax(dim=1) == labels)
                right += int(hits.sum())
                count += len(hits)
        return right / count

    def _checkpoint(self, done: Checkpoint | None, epoch: Epoch) -> Checkpoint:
        weights = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self._plain_net().state_dict().items()
        }
        epochs = (*(done.epochs if done else ()), epoch)
        better = done is None or epoch.val_accuracy > done.epochs[done.best_epoch].val_accuracy
        best = weights if done is None or better else done.best
        return Checkpoint(epochs, weights, self.optimizer.state_dict(), best)

    def _plain_net(self) -> nn.Module:
        net: nn.Module = self.accelerator.unwrap_model(self.net)
        return net


def _optimizer(net: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels, none for biases and normalisation."""
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in learnt if parameter.dim() > 1],
            "weight_decay": options.weight_decay,
        },
        {
            "params": [parameter for parameter in learnt if parameter.dim() <= 1],
            "weight_decay": 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.momentum, 0.999))
    return torch.optim.SGD(
        groups,
        lr=options.learning_rate,
        momentum=options.momentum,
        nesterov=options.momentum > 0,
    )


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def _check_fit(module: nn.Module, data: Data) -> None:
    """Let a misfit of network and data fail here, with a line of its own."""
    *inputs, _ = Samples.first(data)
    net = deepcopy(module).cpu().eval()
    try:
        with torch.inference_mode():
            net(*inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = ", ".join(str(list(part.shape[1:])) for part in inputs)
        raise BadInputError(
            f"{data.name} (samples of shape {shapes}) does not fit the network: "
            f"{str(error).splitlines()[0]}"
        ) from error


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
