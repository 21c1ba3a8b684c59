"""What fine-tuning needs beyond training: a start that counts, patience, FX graphs, few samples."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from deploykit.core.errors import BadInputError
from deploykit.load.arrays import ArrayData
from deploykit.load.datasets import open_data
from deploykit.nets.seeding import initial_weights
from deploykit.train.checkpoint import Checkpoint, Epoch, State
from deploykit.train.fit import layout_for
from deploykit.train.loop import TrainResult, train
from deploykit.train.objective import Term, labels_alone
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploykit.train.curves import Point
    from deploykit.train.objective import Step, Terms

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN, VAL = open_data("digits:train"), open_data("digits:val")
OPTIONS = TrainOptions(epochs=4, batch_size=32, learning_rate=0.1, warmup=0.1, crop=1, seed=1)
aten = torch.ops.aten


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        logits: Tensor = self.out(self.drop(x.flatten(1)))
        return logits


class Rewriting(fx.GraphModule):
    """`train` and `eval` rewrite the graph."""

    def train(self, mode: bool = True) -> Rewriting:
        for node in self.graph.nodes:
            if node.target is aten.batch_norm.default:
                node.update_arg(5, mode)
            if node.target is aten.dropout.default:
                node.update_arg(2, mode)
        self.recompile()
        super().train(mode)
        return self


def _net() -> Net:
    with initial_weights(0):
        return Net()


def _graph(kind: type[fx.GraphModule]) -> fx.GraphModule:
    """`_net` as ATen operators, with the names that its parameters have there."""
    graph = fx.Graph()

    def call(operator: Any, *args: Any) -> fx.Node:
        return graph.call_function(operator, args)

    x = graph.placeholder("x")
    get = graph.get_attr
    # As pruning makes it, a graph asks its module for the mode.
    mode = True if kind is Rewriting else get("training")
    x = call(aten.conv2d.default, x, get("conv.weight"), get("conv.bias"), [2, 2], [1, 1])
    norm = (get(f"norm.{name}") for name in ("weight", "bias", "running_mean", "running_var"))
    x = call(aten.batch_norm.default, x, *norm, mode, 0.1, 1e-5, True)
    x = call(aten.flatten.using_ints, call(aten.relu.default, x), 1)
    x = call(aten.dropout.default, x, 0.2, mode)
    graph.output(call(aten.linear.default, x, get("out.weight"), get("out.bias")))
    return kind(_net(), graph)


def _unlearn(step: Step) -> Terms:
    return {n: Term((5 - term.value).abs()) for n, term in labels_alone(step).items()}


def _same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(_net(), TRAIN, VAL, OPTIONS, folder=tmp_path_factory.mktemp("trained"))


def _stop_at(share: float) -> Any:
    def stop(_: str, done: float | None) -> None:
        if done is not None and done >= share:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("kind", [fx.GraphModule, Rewriting])
def test_an_fx_graph_learns_bit_for_bit_what_its_class_learns(
    trained: TrainResult, tmp_path: Path, kind: type[fx.GraphModule]
) -> None:
    given = _graph(kind).eval()
    before, code = {k: v.clone() for k, v in given.state_dict().items()}, given.code
    with pytest.raises(KeyboardInterrupt):
        train(given, TRAIN, VAL, OPTIONS, folder=tmp_path, progress=_stop_at(0.6))
    found = train(given, TRAIN, VAL, OPTIONS, folder=tmp_path)

    assert trained.val_score > 0.85
    assert list(found.module.state_dict()) == list(given.state_dict())
    assert _same(found.module, trained.module)
    assert [e.val_score for e in found.epochs] == [e.val_score for e in trained.epochs]
    assert (given.training, given.code) == (False, code)
    assert all(torch.equal(tensor, before[key]) for key, tensor in given.state_dict().items())
    x = torch.from_numpy(VAL.batch(range(50)).inputs["x"])
    with torch.inference_mode():
        assert torch.equal(found.module(x), trained.module(x))  # it was left in evaluation mode


def test_a_start_that_is_never_surpassed_is_what_comes_back(
    trained: TrainResult, tmp_path: Path
) -> None:
    options = replace(OPTIONS, count_start=True, patience=2)
    start = trained.module
    found = train(start, TRAIN, VAL, options, folder=tmp_path, loss=_unlearn)

    assert found.start_score == found.val_score == trained.val_score
    assert found.best_epoch is None
    assert len(found.epochs) == 2  # and patience ended it
    assert max(epoch.val_score for epoch in found.epochs) < trained.val_score
    assert _same(found.module, start)
    again = train(start, TRAIN, VAL, options, folder=tmp_path, progress=_stop_at(0.0))
    assert (again.start_score, again.epochs) == (found.start_score, found.epochs)
    assert _same(again.module, start)


def test_a_start_that_is_surpassed_is_told_and_an_uncounted_one_is_not(tmp_path: Path) -> None:
    counted = train(
        _net(), TRAIN, VAL, replace(OPTIONS, epochs=1, count_start=True), folder=tmp_path
    )
    uncounted = train(_net(), TRAIN, VAL, replace(OPTIONS, epochs=1), folder=tmp_path)

    assert counted.start_score is not None
    assert counted.start_score < 0.3 < counted.val_score
    assert counted.best_epoch == 0
    assert uncounted.start_score is None
    assert _same(counted.module, uncounted.module)  # judging draws nothing


def _after(accuracies: tuple[float, ...], start: float | None = None) -> Checkpoint:
    state = State({}, {})
    done = Checkpoint((), state, {"from": torch.tensor(-1)}, None, start)
    for number, accuracy in enumerate(accuracies):
        done = done.after(Epoch(1.0, {}, accuracy, 1.0), state, {"from": torch.tensor(number)})
    return done


@pytest.mark.parametrize(
    ("accuracies", "start", "best"),
    [
        ((0.5, 0.9, 0.9, 0.7), None, 1),  # of equals, the first
        ((0.0,), None, 0),
        ((0.5, 0.6), 0.55, 1),
        ((0.5, 0.6), 0.6, None),
        ((), 0.6, None),
    ],
)
def test_the_best_is_kept_at_every_moment(
    accuracies: tuple[float, ...], start: float | None, best: int | None
) -> None:
    done = _after(accuracies, start)

    assert done.best_epoch == best
    assert done.best["from"].item() == (-1 if best is None else best)
    assert done.best_score == max((*accuracies, *([start] if start else [])))


@pytest.mark.parametrize(
    ("accuracies", "start", "patience", "final"),
    [
        ((0.5, 0.6, 0.6), None, 2, False),
        ((0.5, 0.6, 0.6, 0.55), None, 2, True),
        ((0.5, 0.4, 0.6, 0.5), None, 2, False),  # a better epoch starts the count anew
        ((0.5, 0.4), 0.6, 2, True),
        ((), 0.6, 1, False),
        ((0.5, 0.4, 0.3, 0.2, 0.1), None, 0, False),
        ((0.5,) * 9, None, 0, True),
    ],
)
def test_patience_counts_epochs_without_a_better_one(
    accuracies: tuple[float, ...], start: float | None, patience: int, final: bool
) -> None:
    options = TrainOptions(epochs=9, patience=patience)

    assert _after(accuracies, start).is_final(options) is final


def test_part_of_an_epoch_is_a_slice_with_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1)
    steps: list[int] = []

    def counted(step: Step) -> Terms:
        steps.append(len(step.inputs[0]))
        return labels_alone(step)

    for text in ("digits:train[:70]", "digits:train[70:140]"):
        train(_net(), open_data(text), VAL, options, folder=tmp_path, loss=counted)

    assert steps == [32, 32, 32, 32]
    assert len(list(tmp_path.glob("*.pt"))) == 2


class Viewing(nn.Module):
    """A convolution whose output is viewed as rows: channels-last memory cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.conv(x).view(len(x), -1))
        return logits


def test_a_network_that_views_images_as_rows_is_trained_in_their_own_order(tmp_path: Path) -> None:
    assert layout_for(_net(), TRAIN, VAL) is torch.channels_last
    assert layout_for(Viewing(), TRAIN, VAL) is torch.contiguous_format

    found = train(Viewing(), TRAIN, VAL, replace(OPTIONS, epochs=2), folder=tmp_path)
    assert found.val_score > 0.7


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="the network has no parameters to train"):
        train(_net().requires_grad_(requires_grad=False), TRAIN, VAL, OPTIONS, folder=tmp_path)
    none = ArrayData("none", {"x": np.zeros((0, 1, 8, 8), np.float32)}, np.zeros(0, np.int64))
    with pytest.raises(BadInputError, match="none has no samples"):
        train(_net(), none, VAL, OPTIONS, folder=tmp_path)


_KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from test_train_fine_tuning import OPTIONS, TRAIN, VAL, _net
from deploykit.train.loop import train

def kill(_, share):
    if share is not None and share >= float(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
train(_net(), TRAIN, VAL, OPTIONS, folder=Path(sys.argv[1]), progress=kill)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_twice_ends_with_the_same_weights(
    trained: TrainResult, tmp_path: Path, read_points: Callable[[Path], list[Point]]
) -> None:
    here = __file__.rpartition("/")[0]
    for share in ("0.4", "0.9"):
        command = [sys.executable, "-c", _KILLED, str(tmp_path), share]
        ended = subprocess.run(command, cwd=here, check=False)
        assert ended.returncode == -9
    left = sorted(path.name for path in tmp_path.iterdir())
    found = train(_net(), TRAIN, VAL, OPTIONS, folder=tmp_path)

    assert _same(found.module, trained.module)
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    (curves,) = tmp_path.glob("*/*tfevents*")
    shown = read_points(curves)
    assert [point.epoch for point in shown] == [1, 2, 3, 4]  # each epoch once
    assert [point.scalars["accuracy/val"] for point in shown] == pytest.approx(
        [epoch.val_score for epoch in found.epochs]
    )
    assert [point.scalars["loss/train"] for point in shown] == pytest.approx(
        [epoch.loss for epoch in found.epochs]
    )
    assert shown[0].scalars["learning_rate"] > shown[3].scalars["learning_rate"] > 0
