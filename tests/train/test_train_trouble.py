"""What goes wrong in training, and what is left of it."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploykit.core.errors import BadInputError, CheckFailedError, EnvironmentFailedError
from deploykit.load.arrays import ArrayData
from deploykit.load.datasets import open_data
from deploykit.nets.seeding import initial_weights
from deploykit.train import loop as loop_module
from deploykit.train.loop import TrainResult, train
from deploykit.train.objective import Step, Term, Terms
from deploykit.train.options import TrainOptions
from deploykit.train.room import WORKSPACE_BYTES, Need, advice, check_room, need_of
from deploykit.train.tasks import Task

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
TRAIN, VAL = open_data("digits:train"), open_data("digits:val")
OPTIONS = TrainOptions(
    epochs=3, batch_size=32, learning_rate=0.05, crop=1, mixup=0.2, average=0.99, seed=1
)


def net() -> nn.Module:
    """With statistics and draws of its own."""
    with initial_weights(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
            nn.Dropout(0.2), nn.Linear(72, 10),
        )  # fmt: skip


def _same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(net(), TRAIN, VAL, OPTIONS, folder=tmp_path_factory.mktemp("whole"))


_CHILD = """
import sys
from pathlib import Path
import torch
from deploykit.train import loop
from tests.train.test_train_trouble import OPTIONS, TRAIN, VAL, net

torch.set_num_threads(1)
loop._SAVE_S = loop._SAVE_SHARE = 0.0  # after each step that it can
loop._SAVE_SHARE = 1.0
print("ready", flush=True)
steps = 0
def tell(_, share):
    global steps
    if share is not None:
        steps += 1
        print(steps, flush=True)
loop.train(net(), TRAIN, VAL, OPTIONS, folder=Path(sys.argv[1]), progress=tell)
print("done", flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_weights(
    whole: TrainResult, tmp_path: Path
) -> None:
    """Each sitting is killed after a few steps more, in the midst of epochs, at any place."""
    kills, sittings, done = 0, 0, False
    waits = np.random.default_rng(0)
    while not done:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, tmp_path],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        sittings += 1
        stop = int(waits.integers(1, 5)) if kills < 20 else 10**9
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "done":
                done = True
            elif line.strip().isdigit() and int(line) >= stop:
                # Not at the step's end, but wherever it has come to meanwhile.
                os.kill(child.pid, signal.SIGKILL)
                break
        child.stdout.close()
        child.wait()
        kills += child.returncode == -signal.SIGKILL
    found = train(net(), TRAIN, VAL, OPTIONS, folder=tmp_path)

    assert (kills, sittings) == (20, 21)
    assert _same(found.module, whole.module)
    assert [(e.loss, e.val_score) for e in found.epochs] == [
        (e.loss, e.val_score) for e in whole.epochs
    ]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.77])
def test_an_epoch_goes_on_from_its_midst(
    whole: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(loop_module, "_SAVE_S", 0.0)
    monkeypatch.setattr(loop_module, "_SAVE_SHARE", 1e9)

    def stop(_: str, done: float | None) -> None:
        if done is not None and done >= share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(net(), TRAIN, VAL, OPTIONS, folder=tmp_path, progress=stop)
    shares: list[float] = []
    found = train(
        net(), TRAIN, VAL, OPTIONS, folder=tmp_path, progress=lambda _, s: shares.append(s or 0)
    )

    assert shares[0] > share  # not one step is done again
    assert _same(found.module, whole.module)
    assert [e.loss for e in found.epochs] == [e.loss for e in whole.epochs]


def test_a_sample_that_is_no_number_is_named(tmp_path: Path) -> None:
    batch = TRAIN.batch(range(200))
    assert batch.labels is not None
    images = np.array(batch.inputs["x"], np.float32)
    images[123, 0, 4, 4] = np.nan
    data = ArrayData("spoilt", {"x": images}, batch.labels)

    with pytest.raises(
        CheckFailedError,
        match=r"the loss left the numbers in epoch 1, batch \d \(task nan\): sample 123 of spoilt",
    ):
        train(net(), data, VAL, replace(OPTIONS, mixup=0.0), folder=tmp_path)


def test_the_part_that_left_the_numbers_is_named_and_the_last_good_step_kept(
    tmp_path: Path,
) -> None:
    def loss(step: Step) -> Terms:
        terms = step.labelled(step.net(*step.inputs))
        spoilt = torch.tensor(torch.nan if step.progress > 0.4 else 0.5)
        return {**terms, "teacher": Term(spoilt, 0.3)}

    with pytest.raises(CheckFailedError) as caught:
        train(net(), TRAIN, VAL, OPTIONS, folder=tmp_path, loss=loss)

    per_epoch = len(TRAIN) // 32
    place = int(0.4 * 3 * per_epoch) + 1
    batch = place - per_epoch + 1
    text = str(caught.value)
    assert f"in epoch 2, batch {batch}, in its part 'teacher' (task " in text
    assert "teacher nan)" in text
    (path,) = tmp_path.glob("*.pt")
    assert "; lower learning_rate, now 0.05, or set clip_norm = 1.0; " in text
    assert text.endswith(f"; {path} keeps the last good step")
    found = torch.load(path, weights_only=True)
    assert all(tensor.isfinite().all() for tensor in found["weights"].values())


def test_clipped_gradients_stay_among_the_numbers(tmp_path: Path) -> None:
    options = replace(OPTIONS, learning_rate=3.0, momentum=0.0, epochs=1, average=0.0)

    def steep(step: Step) -> Terms:
        return {n: term.times(1e6) for n, term in step.labelled(step.net(*step.inputs)).items()}

    with pytest.raises(CheckFailedError, match="left the numbers"):
        train(net(), TRAIN, VAL, options, folder=tmp_path / "free", loss=steep)
    found = train(
        net(), TRAIN, VAL, replace(options, clip_norm=0.1, learning_rate=0.5),
        folder=tmp_path, loss=steep,
    )  # fmt: skip
    assert found.val_score > 0.3


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1)
    train(net(), TRAIN, VAL, options, folder=tmp_path / "one")
    (one,) = (tmp_path / "one").glob("*.pt")
    train(net(), TRAIN, VAL, replace(options, seed=9), folder=tmp_path / "other")
    (other,) = (tmp_path / "other").glob("*.pt")
    other.write_bytes(one.read_bytes())

    with pytest.raises(BadInputError, match=r"checkpoint .*\.pt is of another run .*; delete it"):
        train(net(), TRAIN, VAL, replace(options, seed=9), folder=tmp_path / "other")


def test_fewer_samples_than_a_batch(tmp_path: Path) -> None:
    few = open_data("digits:train[:20]")

    with pytest.raises(
        BadInputError, match=r"has 20 samples, fewer than a batch of 32; set batch_"
    ):
        train(net(), few, VAL, OPTIONS, folder=tmp_path)


def test_a_step_takes_what_its_layers_save() -> None:
    # A convolution saves its input, ReLU its output: 64 and 2 x 36 x 4 numbers a sample.
    small = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    def batch(count: int) -> tuple[Tensor, ...]:
        return torch.zeros(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64)

    need = need_of(small, batch, Task(), TrainOptions(optimizer="adamw", average=0.9))
    weights = 4 * sum(parameter.numel() for parameter in small.parameters())
    assert need.all_learn
    assert need.fixed_bytes == 4 * weights + WORKSPACE_BYTES
    saved = need.sample_bytes / 1.3
    assert 4 * (64 + 288) <= saved <= 4 * (64 + 2 * 288 + 64)


def test_a_batch_that_does_not_fit_says_what_does() -> None:
    need = Need(fixed_bytes=10**9, sample_bytes=10**9, all_learn=True)
    options = TrainOptions(batch_size=4096)

    with pytest.raises(EnvironmentFailedError) as caught:
        check_room(need, 4096, options, torch.device("cpu"), 1)
    found = re.fullmatch(
        r"a step of 4096 samples takes about 4097\.0 GB, and .* [\d.]+ GB left; set accumulate = "
        r"(\d+) \(the same batch, in \d+ parts\), or batch_size = (\d+)",
        str(caught.value),
    )
    assert found is not None
    parts, most = int(found[1]), int(found[2])
    assert 4096 % parts == 0
    assert 4096 // parts <= most
    assert advice(need, 64, TrainOptions(batch_size=64), 9 * 10**9) == (
        "set accumulate = 8 (the same batch, in 8 parts), or batch_size = 8"
    )
    assert advice(need, 64, TrainOptions(batch_size=64), 10**8).startswith("not even one sample")
    check_room(need, 1, options, torch.device("cpu"), 1)


_SMALL = """
import sys
from dataclasses import replace
from pathlib import Path
import resource, torch
from deploykit.core.errors import EnvironmentFailedError
from deploykit.train import run
from deploykit.train.loop import train
from tests.train.test_train_trouble import OPTIONS, TRAIN, VAL
torch.set_num_threads(1)
run.check_room = lambda *_: None  # as if the prediction had been too small
wide = torch.nn.Sequential(
    torch.nn.Conv2d(1, 2048, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(), torch.nn.Linear(2048, 10),
)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29),) * 2)
try:
    train(wide, TRAIN, VAL, replace(OPTIONS, batch_size=1024), folder=Path(sys.argv[1]))
except EnvironmentFailedError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="the system cannot limit memory")
def test_a_device_out_of_memory_says_what_fits(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SMALL, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(
        r"out of memory with 1024 samples at once; set accumulate = \d+ \(the same batch, in \d+ "
        r"parts\), or batch_size = \d+\n",
        ended.stdout,
    ), ended.stdout


def test_the_average_of_the_weights_is_what_counts(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def watched(step: Step) -> Terms:
        seen.append(next(step.net.parameters()).detach().clone())
        return step.labelled(step.net(*step.inputs))

    options = replace(OPTIONS, epochs=1, average=0.9)
    found = train(net(), TRAIN, VAL, options, folder=tmp_path, loss=watched)
    (path,) = tmp_path.glob("*.pt")
    last = torch.load(path, weights_only=True)["weights"]["0.weight"]
    steps = [*seen[1:], last]  # the weights after each step
    mean = steps[0].clone()
    for number, weights in enumerate(steps[1:], start=1):
        kept = min(0.9, (1 + number) / (10 + number))
        mean = kept * mean + (1 - kept) * weights

    torch.testing.assert_close(next(found.module.parameters()), mean)
    assert not torch.allclose(mean, last, atol=1e-4)
