"""`deploykit quantize`: what is typed, what is printed, and the exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploykit.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUANTIZE = ("quantize", "net.onnx", "--calibrate", "digits[:32]", "--no-measure")


@pytest.fixture(autouse=True)
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float_network: Callable[..., Path]
) -> Path:
    float_network(tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_network_is_quantized_and_told_about(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUANTIZE, "--exclude", "head", "--val", "digits:val[:40]"]) == 0
    said, complaint = capsys.readouterr()

    assert complaint == ""
    lines = said.splitlines()
    assert lines[0].startswith("build/net-int8: ONNX, ")
    assert lines[0].endswith("; 2 of 4 nodes in integers, ranges of 32 samples")
    assert "  head (Gemm) stays float: it is excluded" in lines
    assert "layer   operator  signal to noise  if quantized alone" in lines
    assert lines[-1] == "next: deploykit bench net.onnx build/net-int8"
    assert any(line.startswith("first   Conv  ") and line.endswith(" dB") for line in lines)
    assert (place / "build" / "net-int8" / "model.onnx").is_file()


def test_few_samples_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", "net.onnx", "--calibrate", "digits[:1]", "--no-measure"]
    assert main(arguments) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(", ranges of 1 sample")
    assert lines[1] == (
        "1 sample may be too few: values beyond theirs are clipped; give 100 or more"
    )


def test_json_is_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUANTIZE, "--json", "--val", "digits:val[:40]"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "deploykit/report"
    assert len(report["checks"]) == 5


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUANTIZE[:2]]) == 2
    assert "--calibrate" in capsys.readouterr().err
    assert main([*QUANTIZE, "--max-drop", "0.5"]) == 2
    assert capsys.readouterr().err == (
        "deploykit: error: max_drop 0.5 is judged on validation data, and none is given: add "
        "--val DATA with labels\n"
    )
    assert main([*QUANTIZE, "--budget", "soon"]) == 2
    assert "budget 'soon' is no number of evaluations, such as 32" in capsys.readouterr().err
    assert main(["quantize", "nothing.onnx", *QUANTIZE[2:]]) == 2
    assert capsys.readouterr().err == "deploykit: error: nothing.onnx does not exist\n"


def test_half_precision_is_one_option(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "net.onnx", "--precision", "fp16", "--target", "ort-cuda"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].startswith("build/net-fp16: ONNX, ")
    assert lines[1] == "  7 of 7 nodes in fp16 for ort-cuda"
    assert lines[2].endswith("latency is the target's to say: deploykit bench on the device")
    assert (place / "build" / "net-fp16" / "half.json").is_file()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--precision", "fp61"], "there is no precision 'fp61'; did you mean 'fp16'?"),
        (["--precision", "fp32"], "quantize: fp32 is what comes in: give int8, fp16 or bf16"),
        (["--calibrate", "digits", "--tolerance", "1"], "tolerance goes with fp16 and bf16: int8"),
        (["--precision", "fp16", "--method", "mse"], "--method goes with --precision int8, and"),
        (["--precision", "fp16", "--no-measure"], "--no-measure goes with --precision int8, and"),
        (["--precision", "bf16", "--target", "ort-cpu"], "'ort-cpu' gains nothing from bf16: its"),
        (["--precision", "fp16", "--max-drop", "1"], "needs data to judge it on: add --val"),
        ([], "int8 needs data that shows the ranges of activations, such as --calibrate"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", "net.onnx", *options]) == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert complaint.count("\n") == 1


def test_a_tolerance_is_held(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["quantize", "net.onnx", "--precision", "fp16", "--tolerance"]

    assert main([*asked, "1e-9"]) == 1
    assert " (limit 1e-09); nothing was written; give " in capsys.readouterr().err
    assert not (place / "build").exists()
    assert main([*asked, "0.1"]) == 0


def test_a_device_needs_no_torch() -> None:
    code = (
        "import sys; from deploykit.cli.main import main; "
        f"status = main({list(QUANTIZE)!r}); sys.exit(status or 'torch' in sys.modules)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
