"""Where a run stands, on disk, so that one that was killed goes on with the same result."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import Tensor

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.train.watch import Part, Sums

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from deploykit.load.data import Data
    from deploykit.train.options import TrainOptions

Weights: TypeAlias = dict[str, Tensor]

# Raise it when the loop changes in a way that changes results, or what a checkpoint holds.
_LOOP_VERSION = 4


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training data came to.

    Attributes:
        loss: mean over the training batches.
        parts: likewise, the terms that the loss is the weighted sum of, by name.
        val_score: of the weights after it; see `TrainResult.val_score`.
        seconds: of the pass and its evaluation.
    """

    loss: float
    parts: Mapping[str, Part]
    val_score: float
    seconds: float


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the next step depends on.

    Attributes:
        weights: of the network.
        optimizer: its state dictionary.
        average: the moving average's state dictionary; empty where there is none.
        loss: the state dictionary of a loss that is trained too; likewise.
    """

    weights: Weights
    optimizer: dict[str, object]
    average: Weights = field(default_factory=dict)
    loss: Weights = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that the rest of a run depends on.

    Attributes:
        epochs: those that are done.
        state: after the last step that is done.
        best: the weights with the highest score on the validation data; of equals, the first.
        best_epoch: which epoch they are from, counted from 0; `None`: from before the first.
        start_score: of the weights that training started from, where they are a candidate for the
            best; else `None`.
        sums: of the epoch that is under way; how many of its batches are done is in it.
        seconds: that epoch took so far.
    """

    epochs: tuple[Epoch, ...]
    state: State
    best: Weights
    best_epoch: int | None
    start_score: float | None
    sums: Sums = field(default_factory=Sums)
    seconds: float = 0.0

    @property
    def best_score(self) -> float | None:
        """On the validation data; `None` where nothing was judged yet."""
        if self.best_epoch is None:
            return self.start_score
        return self.epochs[self.best_epoch].val_score

    def within(self, state: State, sums: Sums, seconds: float) -> Checkpoint:
        """Where the run stands in the midst of an epoch."""
        return replace(self, state=state, sums=sums, seconds=seconds)

    def after(self, epoch: Epoch, state: State, judged: Weights) -> Checkpoint:
        """Where the run stands with one more epoch done, whose weights were judged."""
        better = self.best_score is None or epoch.val_score > self.best_score
        return Checkpoint(
            epochs=(*self.epochs, epoch),
            state=state,
            best=judged if better else self.best,
            best_epoch=len(self.epochs) if better else self.best_epoch,
            start_score=self.start_score,
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
    deciding = replace(options, workers=0)
    total = hashlib.sha256(repr((_LOOP_VERSION, deciding, torch.__version__)).encode())
    total.update(loss_key.encode())
    total.update(f"{data.digest()} {val.digest()}".encode())
    for name, tensor in module.state_dict().items():
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def save(path: Path, checkpoint: Checkpoint, key: str) -> None:
    """Write it, all of it or nothing.

    Raises:
        EnvironmentFailedError: the disk is full, or the folder cannot be written.
    """
    state, sums = checkpoint.state, checkpoint.sums
    with records.writing(path) as file:
        torch.save(
            {
                "key": key,
                "epochs": [_epoch_row(epoch) for epoch in checkpoint.epochs],
                "weights": state.weights,
                "optimizer": state.optimizer,
                "average": state.average,
                "loss": state.loss,
                "best": checkpoint.best,
                "best_epoch": checkpoint.best_epoch,
                "start_score": checkpoint.start_score,
                "sums": (sums.batches, sums.loss, _rows(sums.parts)),
                "seconds": checkpoint.seconds,
            },
            file,
        )


def load(path: Path, key: str) -> Checkpoint:
    """Read what `save` wrote; nothing in the file is executed.

    Raises:
        BadInputError: it is not such a file, or damaged, or of another run.
    """
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
        found = _read(raw)
        written = raw["key"]
    except (
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise BadInputError(
            f"the checkpoint {path} is damaged; delete it to train from the start"
        ) from error
    if written != key:
        raise BadInputError(
            f"the checkpoint {path} is of another run (other options, data or initial weights); "
            "delete it to train from the start"
        )
    return found


def _read(raw: dict[str, object]) -> Checkpoint:
    """The checkpoint of what `save` wrote; what does not fit raises what Python raises."""
    epochs: list[tuple[float, object, float, float]] = raw["epochs"]  # type: ignore[assignment]  # checked by use
    batches, total, parts = cast("tuple[int, float, object]", raw["sums"])
    return Checkpoint(
        epochs=tuple(
            Epoch(loss, _parts(rows), score, seconds) for loss, rows, score, seconds in epochs
        ),
        state=State(raw["weights"], raw["optimizer"], raw["average"], raw["loss"]),  # type: ignore[arg-type]  # checked by load_state_dict
        best=raw["best"],  # type: ignore[arg-type]  # likewise
        best_epoch=raw["best_epoch"],  # type: ignore[arg-type]  # checked by use
        start_score=raw["start_score"],  # type: ignore[arg-type]  # likewise
        sums=Sums(batches, total, _parts(parts)),
        seconds=raw["seconds"],  # type: ignore[arg-type]  # likewise
    )


def _epoch_row(epoch: Epoch) -> tuple[object, ...]:
    return (epoch.loss, _rows(epoch.parts), epoch.val_score, epoch.seconds)


def _rows(parts: Mapping[str, Part]) -> list[tuple[object, ...]]:
    return [(name, *astuple(part)) for name, part in parts.items()]


def _parts(rows: object) -> dict[str, Part]:
    return {name: Part(value, weight) for name, value, weight in rows}  # type: ignore[attr-defined]  # checked by use
