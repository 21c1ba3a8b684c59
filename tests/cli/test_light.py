"""What the front door loads: help and usage errors are quick, and devices need no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from deploykit.cli.main import COMMANDS

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("accelerate", "msgspec", "numpy", "onnx", "onnxruntime", "PIL", "rich", "torch")
_CHILD = """
import json, sys
from deploykit.cli.main import main
status = main(sys.argv[2:])
sys.stdout.flush()
loaded = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
print("\\n" + json.dumps([status, loaded]))
"""


def _ended(names: tuple[str, ...], *args: str) -> tuple[int, list[str]]:
    """Exit status of a command line, and which of the modules it had loaded in the end."""
    ended = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(names), *args],
        capture_output=True,
        text=True,
        check=True,
    )
    status, loaded = json.loads(ended.stdout.splitlines()[-1])
    return status, loaded


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["exprot"], 2),
        (["--verzion"], 2),
        *[([line.name, "--help"], 0) for line in COMMANDS],
        *[([line.name, "--no-such-option"], 2) for line in COMMANDS],
        (["compress", "prune", "--help"], 0),
        (["compress", "prune", "net.py:build", "--no-such-option"], 2),
        (["compress", "prune", "net.py:build", "--ratio", "half"], 2),
        (["compress", "prone"], 2),
        (["inspect"], 2),
        (["inspect", "x.onnx", "--batch", "none"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_help_version_and_usage_errors_load_nothing_heavy(args: list[str], status: int) -> None:
    assert _ended(HEAVY, *args) == (status, [])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    path = tmp_path / "relu.onnx"
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opset), path)
    return path


def test_inspect_of_an_onnx_file_never_imports_torch(model: Path) -> None:
    assert _ended(("torch", "onnxruntime"), "inspect", str(model)) == (0, ["onnxruntime"])


def test_inspect_without_times_needs_no_runtime(model: Path) -> None:
    heavy = ("torch", "onnxruntime", "rich")

    assert _ended(heavy, "inspect", str(model), "--no-time") == (0, [])


def test_doctor_never_imports_torch_or_onnxruntime_for_versions() -> None:
    assert _ended(("torch",), "doctor", "--json") == (0, [])


def test_schema_needs_only_the_standard_library() -> None:
    assert _ended(HEAVY, "schema") == (0, [])
