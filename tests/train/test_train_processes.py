"""Two real processes train as one does: the same rows, draws, statistics and gradients."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deploykit.load.datasets import open_data
from deploykit.nets.seeding import initial_weights
from deploykit.train.loop import train
from deploykit.train.options import TrainOptions

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN, VAL = open_data("digits:train[:256]"), open_data("digits:val[:75]")
OPTIONS = TrainOptions(
    epochs=2, batch_size=32, learning_rate=0.05, crop=1, flip=True, mixup=0.2, erase=0.3,
    clip_norm=1.0, average=0.9, accumulate=1, seed=3, loss=("cross-entropy",),
)  # fmt: skip


class Net(nn.Module):
    """Statistics over the batch, and a parameter that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.rows, self.out = nn.BatchNorm1d(8), nn.Linear(8, 10)
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3))
        logits: Tensor = self.out(self.rows(x))
        return logits


def net() -> Net:
    with initial_weights(0):
        return Net()


def run(folder: Path, options: TrainOptions) -> None:
    """What each process does."""
    found = train(net(), TRAIN, VAL, options, folder=folder)
    if os.environ.get("RANK", "0") == "0":
        save_file(found.module.state_dict(), folder / "trained.safetensors")
        (folder / "score").write_text(f"{found.val_score} {found.epochs[-1].loss}")
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        (folder / "world").write_text(f"{world}")


_CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.train.test_train_processes import OPTIONS, run

torch.set_num_threads(1)
run(Path(sys.argv[1]), replace(OPTIONS, accumulate=int(sys.argv[2])))
"""


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _two(folder: Path, *arguments: str, launcher: str) -> subprocess.CompletedProcess[str]:
    script = folder / "child.py"
    script.write_text(_CHILD)
    # Accelerate's own launcher starts several processes for GPUs only; without one they take CPUs.
    ways = {
        "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--standalone"],
        "accelerate": [
            "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", f"{_free_port()}",
        ],
    }  # fmt: skip
    root = Path(__file__).parents[2]
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            *ways[launcher],
            str(script),
            str(folder),
            *arguments,
        ],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _close(one: Path, weights: dict[str, Tensor]) -> float:
    """How far the weights of a run are from others, by their largest."""
    found = load_file(one / "trained.safetensors")
    assert found.keys() == weights.keys()
    apart = [(found[n].double() - weights[n].double()).abs().max() for n in found]
    return float(max(apart))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_train_as_one(tmp_path: Path, launcher: str) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    run(alone, OPTIONS)
    ended = _two(together, "1", launcher=launcher)

    assert ended.returncode == 0, ended.stderr
    assert (together / "world").read_text() == "2"
    weights = load_file(alone / "trained.safetensors")
    assert _close(together, weights) < 1e-5
    # Without what joins the processes they would be far apart.
    other = tmp_path / "other"
    other.mkdir()
    run(other, replace(OPTIONS, batch_size=16))
    assert _close(other, weights) > 1e-3
    texts = [(folder / "score").read_text().split() for folder in (alone, together)]
    assert [float(text) for text in texts[1]] == pytest.approx(
        [float(text) for text in texts[0]], abs=1e-5
    )


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    ended = _two(tmp_path, "3", launcher="torchrun")

    assert ended.returncode != 0
    assert "a batch of 32 cannot be shared out equally among 2 processes with accumulate = 3; " in (
        ended.stderr
    )
    assert "set batch_size = 30" in ended.stderr


def test_a_batch_in_parts_is_the_batch(tmp_path: Path) -> None:
    class Plain(nn.Sequential):
        """Without statistics over the batch, which parts have of their own."""

    def plain() -> Plain:
        with initial_weights(0):
            return Plain(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))

    whole, parts = (
        train(
            plain(), TRAIN, VAL, replace(OPTIONS, accumulate=count), folder=tmp_path
        ).module.state_dict()
        for count in (1, 4)
    )

    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-5, rtol=1e-4)
    with_seed = train(plain(), TRAIN, VAL, replace(OPTIONS, seed=4), folder=tmp_path)
    assert not torch.allclose(with_seed.module.state_dict()["3.bias"], whole["3.bias"], atol=1e-3)
