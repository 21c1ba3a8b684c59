"""Foreign ONNX files: taken as they are, checked, and their ranges declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.types import Dim, TensorSpec
from deploykit.export.adopt import adopt
from deploykit.load.artifacts import load_artifact
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import OnnxArtifact

WEIGHT = np.arange(1200, dtype=np.float32).reshape(4, 300)


def foreign(opset: int = 7, ir_version: int = 3, external: bool = False) -> onnx.ModelProto:
    """relu(x @ w), from before weights could be left out of the inputs."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "old",
        [
            value("x", TensorProto.FLOAT, ["batch", 4]),
            value("w", TensorProto.FLOAT, list(WEIGHT.shape)),
        ],
        [value("y", TensorProto.FLOAT, ["batch", 300])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    opsets = [helper.make_opsetid("", opset)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    return model


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def original(folder: Path, model: onnx.ModelProto, external: bool = False) -> OnnxArtifact:
    path = folder / "foreign.onnx"
    onnx.save(model, path, save_as_external_data=external, location="foreign.bin")
    return load_artifact(path)


def test_an_old_file_stays_old_and_gains_shapes_and_a_record(tmp_path: Path, out: Path) -> None:
    given = original(tmp_path, foreign())
    artifact = adopt(given, out, (), "1.2.3")
    model = onnx.load(out / "model.onnx")

    assert model.ir_version == 3
    assert model.opset_import[0].version == 7
    assert [value.name for value in model.graph.input] == ["x", "w"]
    assert [value.name for value in model.graph.value_info] == ["h"]
    assert artifact == load_artifact(out)
    assert artifact.inputs == (TensorSpec("x", "float32", (Dim("batch"), 4)),)
    (step,) = artifact.history
    assert step.name == "adopt"
    assert step.options == {"source": "foreign.onnx"}
    assert step.input_digests == {"foreign.onnx": given.digest}
    assert step.versions == {"deploykit": "1.2.3", "onnx": onnx.__version__}


def test_declared_ranges_go_to_inputs_and_outputs_under_the_graphs_own_name(
    tmp_path: Path, out: Path
) -> None:
    artifact = adopt(original(tmp_path, foreign()), out, parse_inputs(["x=N[1..16]x4"]), "1")

    assert artifact.inputs[0].shape == (Dim("batch", 1, 16), 4)
    assert artifact.outputs[0].shape == (Dim("batch", 1, 16), 300)


def test_a_dynamic_size_may_be_declared_fixed(tmp_path: Path, out: Path) -> None:
    artifact = adopt(original(tmp_path, foreign()), out, parse_inputs(["x=8x4"]), "1")

    assert artifact.inputs[0].shape == (8, 4)
    assert load_artifact(out).inputs[0].shape == (8, 4)


def test_weights_beside_the_file_come_along(tmp_path: Path, out: Path) -> None:
    modern = foreign(20, 9)
    del modern.graph.input[1]
    given = original(tmp_path, modern, external=True)
    assert [file.path for file in given.files] == ["foreign.onnx", "foreign.bin"]
    artifact = adopt(given, out, (), "1")

    assert [file.path for file in artifact.files] == ["model.onnx", "foreign.bin"]
    found = onnx.load(out / "model.onnx").graph.initializer[0]
    assert numpy_helper.to_array(found).tolist() == WEIGHT.tolist()
    assert set(artifact.history[0].input_digests) == {"foreign.onnx", "foreign.bin"}


def test_the_history_of_one_of_our_own_goes_on(tmp_path: Path, out: Path) -> None:
    first = adopt(original(tmp_path, foreign()), out, (), "1")
    again = tmp_path / "again"
    again.mkdir()

    assert [step.name for step in adopt(first, again, (), "1").history] == ["adopt", "adopt"]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (["y=N[1..16]x4"], "the graph's inputs are x: declare each of them, not y"),
        (["x=N[1..16]x4", "w=4x300"], "the graph's inputs are x: declare each of them, not x, w"),
        (
            ["x=N[1..16]x5"],
            "input 'x' of the graph is batch[1..]x4:float32, not N[1..16]x5:float32",
        ),
        (["x=N[1..16]"], "input 'x' of the graph is batch[1..]x4:float32, not N[1..16]:float32"),
        (
            ["x=N[1..16]x4:float16"],
            "input 'x' of the graph is batch[1..]x4:float32, not N[1..16]x4:float16",
        ),
        (
            ["x=N[1..16]xC[1..4]"],
            "input 'x' of the graph is batch[1..]x4:float32, not N[1..16]xC[1..4]:float32",
        ),
    ],
)
def test_a_declaration_that_is_not_the_graphs_is_refused(
    tmp_path: Path, out: Path, declared: list[str], words: str
) -> None:
    given = original(tmp_path, foreign())
    with pytest.raises(BadInputError) as caught:
        adopt(given, out, parse_inputs(declared), "1")
    assert str(caught.value) == words


def test_a_graph_that_the_checker_refuses_is_a_failed_check(tmp_path: Path, out: Path) -> None:
    broken = foreign()
    broken.graph.node[0].input[0] = "nowhere"
    given = original(tmp_path, broken)
    with pytest.raises(CheckFailedError) as caught:
        adopt(given, out, (), "1")

    assert str(caught.value).startswith("onnx's checker refuses model.onnx: ")
    assert "nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)
