"""`deploykit inspect`, end to end."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = numpy_helper.from_array(np.ones((64, 32), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
            helper.make_node("Relu", ["h"], ["y"], name="act"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32])],
        [weights],
    )
    opset = [helper.make_opsetid("", 13)]
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opset), path)
    return path


def _json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["inspect", *args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_json_has_every_layer_the_totals_and_the_times(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys, str(model), "--batch", "4")

    assert (found["schema"], found["version"]) == ("deploykit/inspection", "1.0")
    assert [layer["name"] for layer in found["layers"]] == ["product", "act"]
    assert found["totals"]["parameters"] == 64 * 32
    assert found["totals"]["macs"] == 4 * 64 * 32
    assert found["sizes"] == {"N": 4}
    assert found["runtime"] == "ort-cpu"
    assert {operator["op"] for operator in found["operators"]} == {"MatMul", "Relu"}
    assert sum(operator["share"] for operator in found["operators"]) == pytest.approx(1)


def test_the_table_shows_what_computes_and_names_the_rest(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(model), "--no-time", "--batch", "4"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{model}: x=N[1..]x64:float32, N = 4"
    assert lines[3].split() == [
        "product", "MatMul", "4x32", "2.05", "k", "8.19", "k", "8.19", "kB", "512", "B",
    ]  # fmt: skip
    assert lines[4] == "and 1 more (--all): 1 Relu"
    assert lines[6].startswith("2,048 parameters, 8,192 MACs, 8.19 kB of weights, ")
    assert len(lines) == 7


def test_all_and_top(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(model), "--no-time", "--all"])
    assert "act      Relu" in capsys.readouterr().out
    main(["inspect", str(model), "--top", "1"])
    out = capsys.readouterr().out
    assert "slowest nodes" in out
    assert "time by operator, ort-cpu" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing.onnx"], "nothing.onnx does not exist"),
        (["nothing"], "'nothing' is not a source and no such file"),
        (["MODEL", "--runtime", "ort-cpi"], "there is no runtime 'ort-cpi'; did you mean"),
        (["MODEL", "--runtime", "torch-eager"], "torch-eager does not run ONNX files"),
        (["MODEL", "--input", "x=1x3"], "--input is for PyTorch sources"),
        (["MODEL", "--weights", "w.pt"], "--weights is for PyTorch sources"),
        (["MODEL", "--trust"], "--trust is for PyTorch sources"),
        (["MODEL", "--size", "M=3"], "no dynamic dimension is called 'M'"),
        (["MODEL", "--size", "M"], "'M' is not a size; write it like N=8"),
        (["MODEL", "--batch", "0"], "0 is not in the range x>=1"),
    ],
)
def test_bad_input_is_one_line(
    args: list[str], words: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *(str(model) if arg == "MODEL" else arg for arg in args)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_a_file_that_is_cut_off(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.write_bytes(model.read_bytes()[:-100])

    assert main(["inspect", str(model)]) == 2
    assert "cut off" in capsys.readouterr().err


def test_a_pytorch_source_module_by_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        textwrap.dedent("""
            from torch import nn

            def build():
                return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
        """)
    )
    source, inputs = f"{tmp_path}/net.py:build", "x=N[1..4]x3x8x8"

    found = _json(capsys, source, "--input", inputs, "--batch", "2")

    assert [(x["name"], x["op"]) for x in found["layers"]] == [
        ("0", "Conv2d"), ("1", "ReLU"), ("2", "Flatten"), ("3", "Linear"),
    ]  # fmt: skip
    assert found["totals"]["parameters"] == 8 * 28 + 289 * 4
    assert found["totals"]["macs"] == 2 * (36 * 8 * 27 + 288 * 4)
    assert found["runtime"] == "torch-eager"


def test_what_a_network_prints_is_not_in_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loud.py"
    path.write_text(
        "from torch import nn\nclass Loud(nn.Linear):\n    def forward(self, input):\n"
        "        print('called')\n        return super().forward(input)\nprint('imported')\n"
        "def build():\n    return Loud(4, 2)\n"
    )
    found = _json(capsys, f"{path}:build", "--input", "input=N[1..8]x4", "--no-time")

    assert found["totals"]["parameters"] == 10


def test_a_pytorch_source_needs_its_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\nbuild = nn.ReLU\n")

    assert main(["inspect", f"{tmp_path}/net.py:build"]) == 2
    assert "its inputs are not declared; add --input" in capsys.readouterr().err
