"""`deploykit compress separable`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploykit.cli.main import main

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 3), nn.Flatten(),
                         nn.Linear(64, 10))
"""
ASKED = (
    "compress", "separable", "net.py:build", "--input", "x=N[1..8]x1x8x8", "--no-measure",
    "--quiet",
)  # fmt: skip
DATA = ("--train", "digits:train[:128]", "--val", "digits:val[:60]")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def test_layers_are_told_and_the_folder_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, *DATA, "--epochs", "1"]) == 0

    said = capsys.readouterr().out
    assert "3x3 2->4" in said
    assert "72 -> 26" in said
    assert "top-1 after val: digits:val[:60]" in said
    assert "build/net-build-separable: deploykit export build/net-build-separable" in said
    assert (place / "build" / "net-build-separable" / "plan.json").is_file()


@pytest.mark.usefixtures("place")
def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--json", "-o", "out"]) == 0

    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "deploykit/separable"
    (layer,) = [one for one in record["layers"] if one["split"] and one["name"] == "2"]
    assert (layer["weights_before"], layer["weights_after"]) == (72, 26)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--rank", "0"], "rank must be 1 or more, not 0"),
        (["--layers", "7"], "layer '7' is not there"),
        (["--skip", "*"], "there is nothing to split: 0 was left out, 2 was left out"),
        (["--force"], "leave out force: nothing is measured"),
        (["--distill", "2"], "the original's weight must be from 0 to 1, not 2"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, *more]) == 2

    complaint = capsys.readouterr().err
    assert says in complaint
    assert complaint.count("\n") == 1
    assert not Path("build").exists()
