"""`deploykit compress distill`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploykit.cli.main import main

NET = """
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))

def large():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""
ASKED = (
    "compress", "distill", "net.py:small", "--teacher", "net.py:large",
    "--input", "x=N[1..8]x1x8x8", "--train", "digits:train[:128]", "--val", "digits:val[:60]",
    "--epochs", "1", "--quiet",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def test_a_student_is_made_and_its_folder_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(ASKED)) == 0

    said = capsys.readouterr().out
    assert "parameters: 2.41 k of the teacher, 610 of the student" in said
    assert "1 epoch, " in said
    assert "build/net-small-distilled: deploykit export build/net-small-distilled" in said
    assert "top-1 student val: digits:val[:60]" in said
    assert (place / "build" / "net-small-distilled" / "weights.safetensors").is_file()


def test_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--json", "-o", "out"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "deploykit/report"
    assert (place / "out").is_dir()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--weight", "2"], "the teacher's weight must be from 0 to 1, not 2"),
        (["--temperature", "-1"], "temperature must be above 0, not -1"),
        (["--train", ""], "there is nothing to learn from; add --train DATA"),
        (["--hints", "4=3"], "the student has no layer '4'"),
        (["--teacher-shares", "a,b"], "--teacher-shares 'a,b' are no numbers: write them like"),
        (["--teacher-shares", "0.5,0.5"], "teacher_shares has 2 numbers for 1 teachers"),
        (
            ["--teacher-weights", "a.pt", "--teacher-weights", "b.pt"],
            "--teacher-weights is given 2 times, for 1 teachers that are no recipes",
        ),
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


def test_everything_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "--teacher", "net.py:large", "--teacher-shares", "0.7,0.3", "--method", "dist",
        "--hints", "1=1", "--hint-weight", "0.5", "--weight-end", "0.2", "--course", "cosine",
        "--unlabelled", "digits:train[128:200]", "--teacher-precision", "bfloat16",
    ]  # fmt: skip
    assert main([*ASKED, *asked]) == 0

    assert "top-1 teacher 2 val: digits:val[:60]" in capsys.readouterr().out
    text = (place / "build" / "net-small-distilled" / "distillation.json").read_text()
    record = json.loads(text)
    assert record["options"]["teacher_shares"] == [0.7, 0.3]
    assert record["options"]["hints"] == ["1=1"]
    assert record["options"]["course"] == "cosine"
