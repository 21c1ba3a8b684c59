"""Where a run stands, on disk, so that one that was killed goes on with the same result."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from deploykit.core import records
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from deploykit.load.data import Data
    from deploykit.train.options import TrainOptions

Weights: TypeAlias = dict[str, Tensor]

# Raise it when the loop changes in a way that changes results, or what a checkpoint holds.
_LOOP_VERSION = 2


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training data came to.

    Attributes:
        loss: mean over the training batches.
        val_accuracy: share of the validation data that was right, 0 to 1.
        seconds: of the pass and its evaluation.
    """

    loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that the rest of a run depends on.

    Attributes:
        epochs: those that are done.
        weights: after the last of them.
        optimizer: its state dictionary.
        best: the weights with the highest accuracy on the validation data; of equals, the first.
        best_epoch: which epoch they are from, counted from 0; `None`: from before the first.
        start_accuracy: of the weights that training started from, 0 to 1, where they are a
            candidate for the best; else `None`.
    """

    epochs: tuple[Epoch, ...]
    weights: Weights
    optimizer: dict[str, object]
    best: Weights
    best_epoch: int | None
    start_accuracy: float | None

    @property
    def best_accuracy(self) -> float | None:
        """On the validation data, 0 to 1; `None` where nothing was judged yet."""
        if self.best_epoch is None:
            return self.start_accuracy
        return self.epochs[self.best_epoch].val_accuracy

    def after(self, epoch: Epoch, weights: Weights, optimizer: dict[str, object]) -> Checkpoint:
        """Where the run stands with one more epoch done."""
        better = self.best_accuracy is None or epoch.val_accuracy > self.best_accuracy
        return Checkpoint(
            epochs=(*self.epochs, epoch),
            weights=weights,
            optimizer=optimizer,
            best=weights if better else self.best,
            best_epoch=len(self.epochs) if better else self.best_epoch,
            start_accuracy=self.start_accuracy,
        )

    def is_final(self, options: TrainOptions) -> bool:
        """Whether nothing is left to do: all epochs are done, or patience ran out."""
        candidate = 0 if self.best_epoch is None else self.best_epoch + 1
        waited = len(self.epochs) - candidate
        return len(self.epochs) >= options.epochs or 0 < options.patience <= waited


def run_key(
    module: nn.Module, data: Data, val: Data, options: TrainOptions, loss_key: str = ""
) -> str:
    """Names a run by all that decides its result: options, data, weights, loss, torch."""
    total = hashlib.sha256(repr((_LOOP_VERSION, options, torch.__version__)).encode())
    total.update(loss_key.encode())
    total.update(f"{data.digest()} {val.digest()}".encode())
    for name, tensor in module.state_dict().items():
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write it, all of it or nothing.

    Raises:
        EnvironmentFailedError: the disk is full, or the folder cannot be written.
    """
    with records.writing(path) as file:
        torch.save(
            {
                "epochs": [astuple(epoch) for epoch in checkpoint.epochs],
                "weights": checkpoint.weights,
                "optimizer": checkpoint.optimizer,
                "best": checkpoint.best,
                "best_epoch": checkpoint.best_epoch,
                "start_accuracy": checkpoint.start_accuracy,
            },
            file,
        )


def load(path: Path) -> Checkpoint:
    """Read what `save` wrote; nothing in the file is executed.

    Raises:
        BadInputError: it is not such a file, or damaged.
    """
    try:
        raw: Mapping[str, object] = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(
            epochs=tuple(Epoch(*epoch) for epoch in raw["epochs"]),  # type: ignore[attr-defined]  # checked by use
            weights=raw["weights"],  # type: ignore[arg-type]  # checked by load_state_dict
            optimizer=raw["optimizer"],  # type: ignore[arg-type]  # checked by load_state_dict
            best=raw["best"],  # type: ignore[arg-type]  # checked by load_state_dict
            best_epoch=raw["best_epoch"],  # type: ignore[arg-type]  # checked by use
            start_accuracy=raw["start_accuracy"],  # type: ignore[arg-type]  # checked by use
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise BadInputError(
            f"the checkpoint {path} is damaged; delete it to train from the start"
        ) from error
