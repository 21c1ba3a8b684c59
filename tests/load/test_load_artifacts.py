"""ONNX files on their way in: old, foreign, damaged and hostile ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, OnnxArtifact, TensorSpec
from deploykit.load.artifacts import files_of, is_onnx, load_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def tensor(name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT):  # type: ignore[no-untyped-def]  # onnx's own type
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    opset: int = 20,
    ir_version: int = 9,
) -> onnx.ModelProto:
    """y = x @ w, a weight and one node."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        inputs or [tensor("x", ["N", 4])],
        [tensor("y", ["N", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    opsets = [helper.make_opsetid("", opset)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    return made


def external(location: str, **entries: str) -> onnx.ModelProto:
    """The same with its weight in a file of its own, as `location` says."""
    made = model()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": str(WEIGHT.nbytes), **entries}.items():
        weight.external_data.add(key=key, value=value)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "model.onnx"


def refused(path: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        load_artifact(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def record(folder: Path, **changes: object) -> Path:
    """Write model.onnx and its record with the changes."""
    onnx.save(model(), folder / "model.onnx")
    artifact = load_artifact(folder / "model.onnx")
    records.save(folder / "artifact.json", artifact, records.ONNX_ARTIFACT)
    raw = json.loads((folder / "artifact.json").read_text())
    (folder / "artifact.json").write_text(json.dumps(raw | changes))
    return folder / "artifact.json"


def test_a_foreign_file_is_read_as_it_is(path: Path) -> None:
    onnx.save(model(), path)
    artifact = load_artifact(path)

    assert artifact.inputs == (TensorSpec("x", "float32", (Dim("N"), 4)),)
    assert artifact.outputs == (TensorSpec("y", "float32", (Dim("N"), 3)),)
    assert artifact.files == files_of(path.parent, ("model.onnx",))
    assert artifact.model_path == path
    assert artifact.digest == records.sha256_of(path)
    assert artifact.history == ()


def test_weights_that_old_files_list_as_inputs_are_no_inputs(path: Path) -> None:
    old = model([tensor("x", ["N", 4]), tensor("w", [4, 3])], opset=7, ir_version=3)
    onnx.save(old, path)

    assert [spec.name for spec in load_artifact(path).inputs] == ["x"]


def test_dimensions_with_and_without_a_name_or_size(path: Path) -> None:
    shape: list[int | str | None] = ["batch", 4, None, 0, "?"]
    onnx.save(model([tensor("x", shape, TensorProto.INT64)]), path)
    (spec,) = load_artifact(path).inputs

    unnamed = (Dim("x_2"), Dim("x_3"), Dim("x_4"))
    assert spec == TensorSpec("x", "int64", (Dim("batch"), 4, *unnamed))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.STRING, "string"),
        (TensorProto.BFLOAT16, "bfloat16"),
    ],
)
def test_element_types(path: Path, kind: int, name: str) -> None:
    onnx.save(model([tensor("x", [1], kind)]), path)

    assert load_artifact(path).inputs[0].dtype == name


@pytest.mark.parametrize("kind", [0, 999])
def test_an_element_type_that_is_none_is_refused(path: Path, kind: int) -> None:
    made = model()
    made.graph.input[0].type.tensor_type.elem_type = kind
    onnx.save(made, path)

    assert refused(path) == f"'x' has element type number {kind}, which ONNX does not know"


def test_inputs_that_are_no_tensors_are_refused(path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    onnx.save(model([sequence]), path)
    assert refused(path) == "input 'x' is a sequence: only tensors can be fed"

    made = model()
    made.graph.input[0].ClearField("type")
    onnx.save(made, path)
    assert refused(path) == "input 'x' is a nothing: only tensors can be fed"


def test_an_input_without_a_shape_is_refused(path: Path) -> None:
    onnx.save(model([tensor("x", None)]), path)

    with pytest.raises(BadInputError) as caught:
        load_artifact(path)
    assert str(caught.value) == (
        "input 'x' does not say how many dimensions it has: set its shape in the file "
        "(onnx.helper.make_tensor_value_info)"
    )


def test_outputs_that_are_no_tensors_are_told_as_what_they_are(path: Path) -> None:
    made = model()
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", 1, [1]))
    onnx.save(made, path)

    assert load_artifact(path).outputs == (TensorSpec("y", "sequence", ()),)


def test_what_names_an_onnx_artifact(path: Path) -> None:
    folder = path.parent
    assert not is_onnx(str(folder))
    assert is_onnx(str(path))  # by its name, there or not
    onnx.save(model(), path)
    assert is_onnx(str(folder))
    (folder / "recipe.toml").write_text("")
    assert not is_onnx(str(folder))
    record(folder)
    assert is_onnx(str(folder))
    assert is_onnx(str(folder / "artifact.json"))
    assert not is_onnx("timm:resnet18")


def test_a_folder_with_one_model_is_that_model(path: Path) -> None:
    assert refused(path.parent) == f"{path.parent} has no artifact.json and no .onnx file in it"
    onnx.save(model(), path)
    assert load_artifact(path.parent).model_path == path
    onnx.save(model(), path.parent / "other.onnx")
    assert refused(path.parent) == (
        f"{path.parent} has no artifact.json and 2 .onnx files: name one of them"
    )


@pytest.mark.parametrize("name", ["nothing.onnx", "nothing"])
def test_a_path_without_anything_is_named(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path / name) == f"{tmp_path / name} does not exist"


@pytest.mark.parametrize("data", [b"", b"hello, this is no model", b"\x00" * 64, b"PK\x03\x04"])
def test_what_is_not_onnx_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)

    assert refused(path).startswith(f"{path} is not an ONNX model")


def test_a_file_that_is_cut_off_anywhere_is_refused(path: Path) -> None:
    whole = model().SerializeToString()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert f"{path} is not an ONNX model" in refused(path), length


def test_weights_in_a_file_beside_are_part_of_the_artifact(path: Path) -> None:
    onnx.save(external("weights.bin"), path)
    (path.parent / "weights.bin").write_bytes(WEIGHT.tobytes())
    artifact = load_artifact(path)

    assert [(file.path, file.role) for file in artifact.files] == [
        ("model.onnx", "model"),
        ("weights.bin", "weights"),
    ]
    assert artifact.size_bytes == path.stat().st_size + WEIGHT.nbytes


@pytest.mark.parametrize("location", ["../weights.bin", "sub/../../weights.bin", "{absolute}"])
def test_weights_outside_the_folder_are_refused(path: Path, location: str) -> None:
    outside = path.parent.parent / "weights.bin"
    outside.write_bytes(WEIGHT.tobytes())
    location = location.format(absolute=outside)
    onnx.save(external(location), path)

    assert refused(path) == (
        f"{path}: its weights at {location!r} is outside the folder {path.parent}: refused"
    )


def test_weights_behind_a_link_out_of_the_folder_are_refused(path: Path) -> None:
    outside = path.parent.parent / "weights.bin"
    outside.write_bytes(WEIGHT.tobytes())
    (path.parent / "weights.bin").symlink_to(outside)
    onnx.save(external("weights.bin"), path)

    assert "'weights.bin' is outside the folder" in refused(path)


def test_weights_that_are_missing_or_short_are_refused(path: Path) -> None:
    onnx.save(external("weights.bin", offset="4096"), path)
    assert refused(path) == f"{path}: its weights file 'weights.bin' is missing"

    (path.parent / "weights.bin").write_bytes(bytes(4100))
    assert refused(path) == (
        f"{path}: its weights file 'weights.bin' is cut off: 4100 bytes, 4144 needed"
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (external(""), "its weights file '' is missing"),
        (external("."), "its weights file '.' is missing"),
        (external("w" * 300), "is missing"),
        (external("w\0.bin"), "is outside the folder"),
        (external("w.bin", offset="-8"), "tensor 'w' has offset -8 and length 48"),
        (external("w.bin", length="many"), "tensor 'w' has an offset or length that is not a num"),
    ],
)
def test_strange_places_of_weights_are_refused(
    path: Path, made: onnx.ModelProto, words: str
) -> None:
    (path.parent / "w.bin").write_bytes(WEIGHT.tobytes())
    path.write_bytes(made.SerializeToString())

    assert words in refused(path)


def _in_attribute(node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    node.attribute.append(helper.make_attribute("value", graph.initializer[0]))


def _in_subgraph(node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    inner = helper.make_graph([], "inner", [], [], list(graph.initializer))
    node.attribute.append(helper.make_attribute("body", inner))


def _in_sparse_values(node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    sparse = onnx.SparseTensorProto(values=graph.initializer[0], dims=[4, 3])
    graph.sparse_initializer.append(sparse)


@pytest.mark.parametrize("put", [_in_attribute, _in_subgraph, _in_sparse_values])
def test_weights_outside_are_found_wherever_they_hide(
    path: Path, put: Callable[[onnx.NodeProto, onnx.GraphProto], None]
) -> None:
    made = external("../weights.bin")
    put(made.graph.node[0], made.graph)
    del made.graph.initializer[:]
    path.write_bytes(made.SerializeToString())

    assert "'../weights.bin' is outside the folder" in refused(path)


def test_a_recorded_artifact_is_read_from_folder_record_or_model(path: Path) -> None:
    record(path.parent, inputs=[{"name": "x", "dtype": "float32", "shape": [1, 4]}])

    for given in (path.parent, path.parent / "artifact.json", path):
        artifact = load_artifact(given)
        assert artifact.inputs == (TensorSpec("x", "float32", (1, 4)),)
        assert artifact.folder == path.parent


def test_a_model_that_the_record_beside_it_does_not_name_is_foreign(path: Path) -> None:
    record(path.parent, inputs=[])
    onnx.save(model(), path.parent / "other.onnx")

    assert load_artifact(path.parent / "other.onnx").inputs[0].name == "x"


def test_a_model_that_was_changed_after_it_was_recorded_is_refused(path: Path) -> None:
    record(path.parent)
    onnx.save(model(opset=19), path)
    words = refused(path.parent)

    assert words.startswith(f"{path} is not the file that artifact.json describes (SHA-256 ")
    assert words.endswith("): export it again")


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "sub/../../model.onnx"])
def test_a_record_that_names_a_file_outside_is_refused(path: Path, name: str) -> None:
    file = {"path": name, "sha256": "0" * 64, "bytes": 1, "role": "model"}
    place = record(path.parent, files=[file])

    assert refused(place) == f"{name!r} is outside the folder {path.parent}: refused"


def test_a_record_without_files_or_without_one_of_them_is_refused(path: Path) -> None:
    place = record(path.parent, files=[])
    assert refused(place) == f"{place} names no files"

    file = {"path": "gone.onnx", "sha256": "0" * 64, "bytes": 1, "role": "model"}
    place = record(path.parent, files=[file])
    assert refused(place) == f"cannot read {path.parent}/gone.onnx: No such file or directory"


def test_weights_that_the_record_does_not_list_are_refused(path: Path) -> None:
    (path.parent / "weights.bin").write_bytes(WEIGHT.tobytes())
    onnx.save(external("weights.bin"), path)
    whole = load_artifact(path)
    artifact = OnnxArtifact(whole.files[:1], whole.inputs, whole.outputs)
    records.save(path.parent / "artifact.json", artifact, records.ONNX_ARTIFACT)

    assert refused(path.parent) == (
        f"{path} reads files that its record does not list: weights.bin"
    )


def test_a_record_that_is_damaged_is_refused(path: Path) -> None:
    record(path.parent, inputs=3)
    assert refused(path.parent) == (
        f"{path.parent / 'artifact.json'} is not a valid deploykit/artifact-onnx record: Expected "
        "`array`, got `int` "
        "- at `$.inputs`"
    )
