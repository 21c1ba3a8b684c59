"""The loop on real digits: it learns, repeats itself, and goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.core.errors import BadInputError, CheckFailedError, EnvironmentFailedError
from deploykit.load.arrays import ArrayData
from deploykit.load.datasets import open_data
from deploykit.nets.classic import classic
from deploykit.train.loop import TrainResult, train
from deploykit.train.objective import Step, Term, Terms
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN, VAL = open_data("digits:train"), open_data("digits:val")
OPTIONS = TrainOptions(epochs=4, batch_size=32, learning_rate=0.1, warmup=0.1, crop=1, seed=1)


def _net() -> nn.Module:
    """With batch normalisation and dropout: the layers that have state and draws of their own."""
    net = classic(channels=(8, 16), hidden=32, in_channels=1, size=8)
    net.conv1 = nn.Sequential(net.conv1, nn.BatchNorm2d(8))  # type: ignore[assignment]  # for this test
    net.fc1 = nn.Sequential(net.fc1, nn.Dropout(0.2))  # type: ignore[assignment]  # for this test
    return net


def _same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _accuracy(net: nn.Module) -> float:
    batch = VAL.batch(range(len(VAL)))
    assert batch.labels is not None
    with torch.inference_mode():
        found = net(torch.from_numpy(batch.inputs["x"])).argmax(dim=1).numpy()
    return float((found == batch.labels).mean())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(_net(), TRAIN, VAL, OPTIONS, folder=tmp_path_factory.mktemp("whole"))


def test_it_learns_and_says_how_well(whole: TrainResult) -> None:
    assert whole.val_score > 0.85
    assert _accuracy(whole.module) == pytest.approx(whole.val_score)
    assert whole.val_score == max(epoch.val_score for epoch in whole.epochs)
    assert len(whole.epochs) == 4
    assert whole.epochs[-1].loss < whole.epochs[0].loss / 2
    assert not whole.module.training
    assert all(tensor.is_contiguous() for tensor in whole.module.state_dict().values())


def test_equal_arguments_give_equal_weights(whole: TrainResult, tmp_path: Path) -> None:
    torch.rand(17)  # what ran before does not matter
    again = train(_net(), TRAIN, VAL, OPTIONS, folder=tmp_path)
    other = train(_net(), TRAIN, VAL, replace(OPTIONS, seed=2), folder=tmp_path)

    assert _same(again.module, whole.module)
    assert [e.loss for e in again.epochs] == [e.loss for e in whole.epochs]
    assert not _same(other.module, whole.module)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_interrupted_run_ends_with_the_same_weights(
    whole: TrainResult, tmp_path: Path, share: float
) -> None:
    def stop(_: str, done: float | None) -> None:
        if done is not None and done >= share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_net(), TRAIN, VAL, OPTIONS, folder=tmp_path, progress=stop)
    assert len(list(tmp_path.glob("*.pt"))) == 1

    shares: list[float] = []
    resumed = train(
        _net(),
        TRAIN,
        VAL,
        OPTIONS,
        folder=tmp_path,
        progress=lambda _, done: shares.append(done or 0),
    )
    assert shares[0] > int(share * 4) / 4  # what was done is not done again
    assert _same(resumed.module, whole.module)
    assert len(resumed.epochs) == 4


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1)
    first = train(_net(), TRAIN, VAL, options, folder=tmp_path)

    def refuse(_: str, __: float | None) -> None:
        pytest.fail("it trained again")

    again = train(_net(), TRAIN, VAL, options, folder=tmp_path, progress=refuse)
    assert _same(first.module, again.module)
    assert again.epochs == first.epochs


def test_neither_the_network_nor_the_callers_settings_are_changed(tmp_path: Path) -> None:
    net = _net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    train(net, TRAIN, VAL, replace(OPTIONS, epochs=1), folder=tmp_path)

    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_epoch_that_is_best_on_val_is_kept(tmp_path: Path) -> None:
    calls = 0

    def learn_then_unlearn(step: Step) -> Terms:
        nonlocal calls
        calls += 1
        (term,) = step.labelled(step.net(*step.inputs)).values()
        return {"task": term if calls <= 2 * (len(TRAIN) // 32) else Term((5 - term.value).abs())}

    found = train(_net(), TRAIN, VAL, OPTIONS, folder=tmp_path, loss=learn_then_unlearn)

    assert found.best_epoch == 1
    assert found.epochs[3].val_score < found.epochs[1].val_score - 0.2
    assert _accuracy(found.module) == pytest.approx(found.epochs[1].val_score)


@pytest.mark.parametrize("change", [{"optimizer": "adamw", "learning_rate": 0.01},
                                    {"precision": "bfloat16"}, {"schedule": "cosine"}])  # fmt: skip
def test_every_way_to_train_learns(tmp_path: Path, change: dict[str, str | float]) -> None:
    options = replace(OPTIONS, epochs=2, crop=0, **change)  # type: ignore[arg-type]  # names and values of fields
    found = train(_net(), TRAIN, VAL, options, folder=tmp_path)

    assert found.val_score > 0.7
    assert {tensor.dtype for tensor in found.module.parameters()} == {torch.float32}


def test_a_loss_that_leaves_the_numbers_says_so(tmp_path: Path) -> None:
    options = replace(OPTIONS, learning_rate=1e30)

    with pytest.raises(
        CheckFailedError, match=r"left the numbers in epoch 1, batch \d+ \(task nan\); lower"
    ):
        train(_net(), TRAIN, VAL, options, folder=tmp_path)
    assert list(tmp_path.glob("*.pt")) == []


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1)
    train(_net(), TRAIN, VAL, options, folder=tmp_path)
    (path,) = tmp_path.glob("*.pt")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"checkpoint .*\.pt is damaged; delete it"):
            train(_net(), TRAIN, VAL, options, folder=tmp_path)


def test_data_that_does_not_fit_the_network_is_named(tmp_path: Path) -> None:
    wide = ArrayData("wide", {"x": np.zeros((4, 1, 16, 16), np.float32)}, np.arange(4))

    with pytest.raises(
        BadInputError, match=r"wide \(batches of samples of shape \[1, 16, 16\]\) does not fit"
    ):
        train(_net(), wide, VAL, OPTIONS, folder=tmp_path)
    with pytest.raises(BadInputError, match="wide"):
        train(_net(), TRAIN, wide, OPTIONS, folder=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailedError, match=r"cannot make .*file: "):
        train(_net(), TRAIN, VAL, OPTIONS, folder=tmp_path / "file")
