"""`deploykit compress distill` without a STUDENT: a smaller copy of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploykit.cli.main import main
from deploykit.core import records
from deploykit.flow.distill.record import DISTILLATION, Distillation
from deploykit.flow.rebuild import load_model
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""
ASKED = (
    "compress", "distill", "--teacher", "net.py:build", "--input", "x=N[1..8]x1x8x8",
    "--train", "digits:train[:128]", "--val", "digits:val[:60]", "--epochs", "1", "--quiet",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.mark.slow
def test_the_student_is_half_of_the_teacher(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, "--width", "0.5"]) == 0

    assert "1 of 2 groups of channels narrowed, to 0.5 together" in capsys.readouterr().out
    out = place / "build" / "net-build-distilled"
    found = records.load(out / "distillation.json", Distillation, DISTILLATION)
    assert found.smaller is not None
    assert (found.smaller.width, found.smaller.depth) == (0.5, 1.0)
    sizes = [tuple(p.shape) for p in load_model(Source(str(out))).module.parameters()]
    assert sizes == [(16, 64), (16,), (10, 16), (10,)]
    assert main(["export", str(out), "--quiet", "-o", "onnx"]) == 0


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "there is no STUDENT: name one, or take a smaller copy of TEACHER: --width 0.5"),
        (["--align", "4"], "there is no STUDENT: name one"),
        (["net.py:build", "--width", "0.5"], "give STUDENT (net.py:build) or --width, not both"),
        (["--width", "0.5", "--weights", "a.pt"], "--weights a.pt are STUDENT's, and there is"),
        (["--width", "0"], "width must be above 0, at most 1, not 0"),
        (["--depth", "1.5"], "depth must be above 0, at most 1, not 1.5"),
        (["--depth", "0.5"], "the network has no residual blocks that can be left out"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], says: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, *more]) == 2

    complaint = capsys.readouterr().err
    assert says in complaint
    assert complaint.count("\n") == 1
    assert not (place / "build").exists()
