"""`deploykit compress prune`: what is typed, what is printed, and the exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from deploykit.cli.main import main
from deploykit.compress.prune.options import PruneOptions
from deploykit.flow.prune.loop import PruneLoop

if TYPE_CHECKING:
    from pathlib import Path

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
"""
PRUNE = ("compress", "prune", "net.py:build", "--input", "x=N[1..8]x1x8x8", "--no-measure")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_network_is_pruned_and_told_about(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PRUNE, "--ratio", "0.4", "--check", "--val", "digits:val[:40]"]) == 0
    said, complaint = capsys.readouterr()

    assert complaint == ""
    lines = said.splitlines()
    assert lines[0].split() == ["group", "kept", "of", "exactness", "why"]
    assert any(line.startswith("6 stays whole: ") for line in lines)
    assert any(line.startswith("MACs: ") and line.endswith(" left)") for line in lines)
    assert "build/net-build-pruned: deploykit export build/net-build-pruned" in lines
    assert any(line.split()[:3] == ["macs", "left", "passed"] for line in lines)
    assert (place / "build" / "net-build-pruned" / "recipe.toml").is_file()


def test_json_is_one_record_with_its_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRUNE, "--json", "--ratio", "0.4"]) == 0
    record = json.loads(capsys.readouterr().out)

    assert record["schema"] == "deploykit/pruning"
    assert [check["name"] for check in record["checks"]] == ["macs left"]
    assert record["options"]["ratio"] == 0.4


def test_an_aim_that_is_missed_is_handed_over_and_exits_with_1(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PRUNE, "-o", "out", "--ratio", "0.9", "--max-ratio", "0.25"]) == 1
    assert "failed" in capsys.readouterr().out
    assert (place / "out" / "weights.safetensors").is_file()


def test_options_reach_what_they_are_of(capsys: pytest.CaptureFixture[str]) -> None:
    args = (
        "--of", "channels", "--criterion", "l1", "--scope", "layer", "--exclude", "0",
        "--align", "2", "--heads", "whole", "--exactness", "exact", "--max-ratio", "0.8",
        "--seed", "5", "--ratio", "0.25", "--rounds", "2", "--json",
    )  # fmt: skip
    assert main([*PRUNE, *args]) == 0
    record = json.loads(capsys.readouterr().out)

    assert len(record["rounds"]) == 2
    expected = {
        "of": "channels", "criterion": "l1", "scope": "layer", "exclude": ["0"], "align": "2",
        "heads": "whole", "exactness": "exact", "max_ratio": 0.8, "seed": 5,
        "ratio": 0.25,
    }  # fmt: skip
    assert {name: record["options"][name] for name in expected} == expected


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--ratio", "1.5"), "ratio must be above 0 and below 1, not 1.5; for 1.5 % write 0.015"),
        (("--ratio", "x"), "Invalid value for '--ratio': 'x' is not a valid float"),
        (("--criterion", "l3"), "Invalid value for '--criterion': 'l3' is not one of"),
        (("--exclude", "3"), "exclude '3' matches no layer"),
        (("--rounds", "0"), "rounds must be 1 or more, not 0"),
        (("--latency", "0.5x"), "a latency of 0.5x has to be measured"),
        (("--threads", "1"), "leave out threads: nothing is measured"),
        (("--no-finetune", "--epochs", "1"), "leave out epochs: nothing is trained"),
        (("--epochs", "1"), "epochs: there is nothing to fine-tune on; add --train DATA"),
        (("--max-drop", "1"), "max_drop needs data with labels to judge by; add --val DATA"),
        (("--weights", "none.pt"), "weights none.pt do not exist"),
        (("--input", "x=8"), ""),
        (("-o", "net.py"), "net.py is a file: give a folder with --output"),
    ],
)
def test_bad_input_is_one_line_and_exits_with_2(
    args: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PRUNE, *args]) == 2
    said, complaint = capsys.readouterr()

    assert said == ""
    assert complaint.startswith(f"deploykit: error: {words}")
    assert complaint.count("\n") == 1


def test_help_names_every_option_of_its_dataclasses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "prune", "--help"]) == 0
    text = capsys.readouterr().out

    for kind in (PruneOptions, PruneLoop):
        for name in kind.__dataclass_fields__:
            dashed = name.replace("_", "-")
            assert f"--{dashed} " in text or f"--no-{dashed} " in text, name
    assert "[default: l1]" in text


@pytest.mark.slow
def test_what_was_killed_goes_on_and_comes_to_the_same(place: Path) -> None:
    args = (
        *PRUNE, "--train", "digits:train", "--val", "digits:val", "--epochs", "4",
        "--batch-size", "16", "--learning-rate", "0.05", "--rounds", "2", "-o",
    )  # fmt: skip
    command = [sys.executable, "-m", "deploykit", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*command, "out"], env=environment)
    checkpoints = place / ".deploykit" / "prune"
    while not (checkpoints.is_dir() and any(checkpoints.glob("*.pt"))):
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)  # for the first epoch's end, whenever that is
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (place / "out").exists()

    subprocess.run([*command, "out"], env=environment, check=True, capture_output=True)
    (place / ".deploykit").rename(place / "kept")
    subprocess.run([*command, "at_once"], env=environment, check=True, capture_output=True)
    for name in ("plan.json", "weights.safetensors"):
        assert (place / "out" / name).read_bytes() == (place / "at_once" / name).read_bytes()
    left = {path.name for path in place.iterdir()} - {"__pycache__"}
    assert left == {".deploykit", "at_once", "kept", "net.py", "out"}
