"""Weights outside the model file: read only where they change, written one at a time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.core.errors import BadInputError
from deploykit.export.options import ExportOptions
from deploykit.export.torch_to_onnx import export_model
from deploykit.load.artifacts import read_graph
from deploykit.load.modules import load_source
from deploykit.load.sources import Source, resolve
from deploykit.quantize.graph import write as writing
from deploykit.quantize.graph.write import write_graph
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from tests.quantize.conftest import MakeModel, Prove, Run

TEXT = """(float[N,4,8,8] x) => (float[N,16,6,6] y)
    { c = Conv(x, w) n = BatchNormalization(c, s, b, m, v) r = Relu(n) y = Conv(r, far) }"""
WEIGHTS = {"w": (16, 4, 3, 3), "far": (16, 16, 1, 1), **dict.fromkeys("sbmv", (16,))}
FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)}


@pytest.fixture
def outside(make_model: MakeModel, tmp_path: Path) -> Path:
    """A model of opset 9 with every weight in a file beside it."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "model.onnx"
    model = make_model(TEXT, WEIGHTS, opset=9)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def test_external_weights_are_read_only_where_they_change(outside: Path, run: Run) -> None:
    prepared = prepare(read_graph(outside), outside.parent)
    external = [
        one.name for one in prepared.model.graph.initializer
        if one.data_location == onnx.TensorProto.EXTERNAL
    ]  # fmt: skip
    assert external == ["far"]
    assert [node.op_type for node in prepared.model.graph.node] == ["Conv", "Relu", "Conv"]


def test_a_prepared_graph_is_written_with_its_weights_beside_it(
    outside: Path, tmp_path: Path, run: Run
) -> None:
    before = [file.read_bytes() for file in sorted(outside.parent.iterdir())]
    wanted = run(outside, FEEDS)
    prepared = prepare(read_graph(outside), outside.parent)
    (tmp_path / "out").mkdir()
    files = write_graph(prepared.model, prepared.folder, tmp_path / "out" / "new.onnx")
    assert [file.name for file in files] == ["new.onnx", "new.onnx.data"]
    assert [file.read_bytes() for file in sorted(outside.parent.iterdir())] == before
    shutil.rmtree(outside.parent)  # it stands alone
    np.testing.assert_allclose(run(files[0], FEEDS)[0], wanted[0], rtol=1e-5, atol=1e-4)
    onnx.checker.check_model(str(files[0]), full_check=True)


def test_a_small_graph_is_one_file(make_model: MakeModel, tmp_path: Path, run: Run) -> None:
    model = make_model(TEXT, WEIGHTS)
    prepared = prepare(model)
    (path,) = write_graph(prepared.model, None, tmp_path / "new.onnx")
    np.testing.assert_allclose(run(path, FEEDS)[0], run(model, FEEDS)[0], rtol=1e-5, atol=1e-4)


def test_what_is_too_large_for_one_file_is_split(
    make_model: MakeModel, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "EMBED_LIMIT_BYTES", 2000)
    model = make_model(TEXT, WEIGHTS)
    before = model.SerializeToString(deterministic=True)
    path, data = write_graph(model, None, tmp_path / "new.onnx")
    assert data.stat().st_size >= 4 * (16 * 4 * 9)
    assert model.SerializeToString(deterministic=True) == before
    assert run(path, FEEDS)[0].tobytes() == run(model, FEEDS)[0].tobytes()


def test_external_weights_of_a_subgraph_come_along(
    make_model: MakeModel, tmp_path: Path, run: Run
) -> None:
    model = make_model("""(float[4,4] x, bool t) => (float[4,4] y) { a = MatMul(x, w)
        y = If(t) < then_branch = yes () => (float[4,4] p) { p = Add(a, k) },
                    else_branch = no () => (float[4,4] p) { p = Relu(a) } > }""",
        {"w": (4, 4)})  # fmt: skip
    branch = model.graph.node[1].attribute[0].g
    value = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    branch.initializer.append(numpy_helper.from_array(value, "k"))
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "model.onnx"
    tensor = branch.initializer[0]
    (tmp_path / "in" / "k.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="k.bin")
    onnx.save(model, path)
    feeds = {"x": np.eye(4, dtype=np.float32), "t": np.array(True)}
    wanted = run(path, feeds)[0]
    prepared = prepare(read_graph(path), path.parent)
    files = write_graph(prepared.model, prepared.folder, tmp_path / "new.onnx")
    shutil.rmtree(path.parent)
    np.testing.assert_array_equal(run(files[0], feeds)[0], wanted)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("folder", "tensor 'w' lies in the file 'w.bin': say in which folder that is"),
        ("missing", "the weights file 'w.bin' is missing from "),
        ("short", "the weights file 'w.bin' is cut off: tensor "),
        ("escape", "'../w.bin' is outside the folder "),
    ],
)
def test_external_weights_that_cannot_be_read(outside: Path, damage: str, line: str) -> None:
    model = read_graph(outside)
    data = outside.parent / "w.bin"
    if damage == "missing":
        data.unlink()
    if damage == "short":
        data.write_bytes(data.read_bytes()[:100])
    if damage == "escape":
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = "../w.bin"
    with pytest.raises(BadInputError) as caught:
        prepare(model, None if damage == "folder" else outside.parent)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_network_exported_from_torch_is_prepared(tmp_path: Path, prove: Prove) -> None:
    folder = Path(__file__).parents[2] / "models" / "fashion_resnet"
    model = load_source(resolve(Source(str(folder))))
    done = export_model(model, tmp_path, ExportOptions())
    prepared = prove(read_graph(done.artifact.model_path), tmp_path)
    types = {node.op_type for node in prepared.model.graph.node}
    assert "Conv" in types
    assert "BatchNormalization" not in types
