"""`deploykit compress exits`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploykit.cli.main import main
from tests.cli.test_cli_separable import NET

ASKED = (
    "compress", "exits", "net.py:build", "--input", "x=N[1..8]x1x8x8", "--quiet",
    "--train", "digits:train[:64]", "--val", "digits:val[:40]", "--epochs", "1",
    "--batch-size", "32",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def test_exits_and_the_curve_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--at", "0", "--max-drop", "100"]) == 0

    said = capsys.readouterr().out
    assert "calibration error" in said
    assert "mean latency" in said
    assert "build/net-build-exits: deploykit export build/net-build-exits" in said
    assert (place / "build" / "net-build-exits" / "exits.json").is_file()


@pytest.mark.usefixtures("place")
def test_a_target_that_is_not_reached_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--at", "0", "--latency", "1ns", "--json", "-o", "out"]) == 1

    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "deploykit/exits"
    assert not record["met"]
    assert Path("out/exits.json").is_file()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--at", "9"], "no layer '9'"),
        (["--at", "4"], "layer '4' is the network's own end"),
        (["--exits", "0"], "exits must be 1 or more, not 0"),
        (["--exits", "9"], "places for exits"),
        (["--at", "0", "--exit-weights", "-1"], "an exit's weight must be above 0, not -1"),
        (["--at", "0", "--latency", "fast"], "latency 'fast' is no time"),
        (["--at", "0", "--head", "conv", "--at", "3"], "no places for a convolution"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, *more]) == 2

    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not Path("build").exists()
