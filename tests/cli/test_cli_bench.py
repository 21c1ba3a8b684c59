"""`deploykit bench`, end to end."""

from __future__ import annotations

import csv
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bench.report import CSV_COLUMNS
from deploykit.bench.result import BENCH, BenchResult
from deploykit.cli.main import main
from deploykit.core import records

NET = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU())
"""
FAST = ("--min-time", "1ms", "--min-count", "1", "--precision", "500%", "--threads", "1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = numpy_helper.from_array(np.ones((64, 32), np.float32), "w")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
        for name, size in (("x", 64), ("y", 32))
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    opset = [helper.make_opsetid("", 13)]
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opset), path)
    return path


TWINS = """
import torch
print("imported")

def build(stride):
    torch.manual_seed(0)
    return torch.nn.Conv2d(1, 2, 3, stride)

def one():
    return build(1)

def two():
    return build(2)

def data():
    print("opened")
    return torch.ones(2, 1, 9, 9).numpy()
"""


@pytest.mark.slow
def test_networks_of_equal_weights_are_told_apart_and_prints_stay_out_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "twins.py"
    path.write_text(TWINS)
    status = main(
        ["bench", f"{path}:one", f"{path}:two", "--input", "x=N[1..8]x1x9x9", *FAST,
         "--data", f"{path}:data", "--json"]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)

    assert status == 0
    one, two = found["measurements"]
    assert one["artifact_digest"] == two["artifact_digest"]
    assert (one["macs"], two["macs"]) == (2 * 9 * 7 * 7, 2 * 9 * 4 * 4)


@pytest.mark.slow
def test_everything_at_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX beside PyTorch, two batches, one runtime that is not here; every output."""
    (tmp_path / "net.py").write_text(NET)
    out = {name: tmp_path / f"r.{name}" for name in ("json", "csv", "md")}
    status = main(
        ["bench", str(model), f"{tmp_path / 'net.py'}:build", "--input", "x=N[1..8]x64", *FAST,
         "--batch", "1,4", "--runtime", "ort-cpu", "--runtime", "torch-eager", "--runtime",
         "ort-cuda", "-o", str(out["json"]), "--csv", str(out["csv"]), "--markdown",
         str(out["md"])]
    )  # fmt: skip
    told = capsys.readouterr()
    result = records.load(out["json"], BenchResult, BENCH)

    assert status == 3
    assert result.exit_statuses == (0, 3, 0, 3, 0, 0)
    assert [(m.target.runtime, m.target.batch) for m in result.measurements] == [
        ("ort-cpu", 1), ("ort-cuda", 1), ("ort-cpu", 4), ("ort-cuda", 4),
        ("torch-eager", 1), ("torch-eager", 4),
    ]  # fmt: skip
    for measurement, summary in zip(result.measurements, result.summaries, strict=True):
        if summary is not None:
            samples = measurement.samples
            assert summary.count == len(samples.latency_ns) == len(samples.round) > 0
            assert measurement.macs == 64 * 32 * (measurement.target.batch or 0)
            assert summary.load_ns > 0
            assert summary.first_ns > 0
    assert [m.parameters for m in result.measurements if m.error is None] == [
        2048,
        2048,
        2080,
        2080,
    ]
    assert result.measurements[0].size_bytes == model.stat().st_size
    assert result.measurements[4].size_bytes is None
    assert "row 2 failed: ort-cuda cannot run here" in told.out
    assert "small.onnx" in told.out
    assert "net.py:build" in told.out
    assert told.err == ""
    rows = list(csv.DictReader(out["csv"].read_text().splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["status"] for row in rows].count("failed") == 2
    assert rows[1]["p50_ns"] == ""
    assert float(rows[0]["p50_ns"]) > 0
    assert out["md"].read_text().count("| small.onnx |") == 8


def test_json_is_one_record(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(model), *FAST, "--json"]) == 0
    raw: dict[str, Any] = json.loads(capsys.readouterr().out)

    assert (raw["schema"], raw["version"]) == ("deploykit/bench", "1.0")
    assert raw["measurements"][0]["samples"]["latency_ns"]
    assert raw["measurements"][0]["target"]["threads"] == 1
    assert raw["inputs"] == "made up from seed 0"


def test_real_inputs_are_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.zeros((2, 64), np.float32))
    assert main(["bench", str(model), *FAST, "--data", str(data)]) == 0

    assert f"inputs {data}: x 1x64" in capsys.readouterr().out


def test_where_every_row_failed_there_is_no_table(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["bench", str(model), "--runtime", "ort-cuda"])
    told = capsys.readouterr()

    assert status == 3
    assert told.out == ""
    assert told.err.startswith("deploykit: error: small.onnx on ort-cuda: ort-cuda cannot run here")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["MODEL", "--runtime", "ort-cup"], "no runtime 'ort-cup'; did you mean 'ort-cpu'?"),
        (["MODEL", "--input", "x=1x64"], "--input is for PyTorch sources, and none is given"),
        (["MODEL", "--trust"], "--trust is for PyTorch sources, and none is given"),
        (["MODEL", "--shape", "M=3"], "--size M: no input has a dynamic dimension of that name"),
        (["MODEL", "--option", "spin"], "--option 'spin' is not KEY=VALUE"),
        (["MODEL", "-o", "no/such/r.json"], "the folder no/such does not exist"),
        (["gone.onnx"], "gone.onnx does not exist"),
        (["gone.py:build"], "gone.py does not exist"),
        (["MODEL", "gone.py:build"], "gone.py does not exist"),
        (["MODEL", "--batch", "0"], "0 in '0' is below 1"),
        (["MODEL", "--min-time", "5"], "'5' is not a duration"),
        (["MODEL", "--data", "nothing-of-the-kind"], "nothing-of-the-kind"),
    ],
)
def test_bad_input_is_one_line(
    args: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["bench", *(str(model) if arg == "MODEL" else arg for arg in args)])
    told = capsys.readouterr()

    assert status == 2
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_a_network_that_cannot_be_built_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text("import nothing_of_the_kind\n")
    status = main(["bench", f"{tmp_path / 'net.py'}:build"])
    told = capsys.readouterr()

    assert status != 0
    assert "nothing_of_the_kind" in told.err
    assert told.err.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed by Linux")
def test_ctrl_c_ends_the_children_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """Interrupted once the measuring process has used a second of CPU time, and so is at work."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = tmp_path / "r.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "deploykit", "bench", str(model), "--budget", "10min",
         "--min-time", "10min", "-o", str(out)],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)},
        start_new_session=True,
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found: list[str] = []
    while not any(_ticks(child) > 100 for child in found):
        assert process.poll() is None
        found = children.read_text().split()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err == "deploykit: error: interrupted\n"
    assert all(_ends(int(child)) for child in found)
    assert list(scratch.iterdir()) == []
    assert not out.exists()


def _ticks(pid: str) -> int:
    """CPU time in user mode, in hundredths of a second: the 14th field of proc_pid_stat(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def _ends(pid: int) -> bool:
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended, _, _ = select.select([watch], [], [], 30)
    os.close(watch)
    return bool(ended)


def test_benching_onnx_imports_no_torch(model: Path) -> None:
    code = (
        "import sys; from deploykit.cli.main import main; status = main(sys.argv[1:]); "
        "print('torch' in sys.modules, status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", str(model), *FAST],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines()[-1] == "False 0"
