"""ONNX Runtime's errors in one line: each message is what its real error becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.measurement import Target
from deploykit.core.types import File, OnnxArtifact
from deploykit.runtimes.ort import CPU
from deploykit.runtimes.ort_errors import explain, plain_error
from deploykit.runtimes.ort_specs import spec_of

if TYPE_CHECKING:
    from pathlib import Path


def model(
    op: str = "Relu",
    domain: str = "",
    opset: int = 17,
    ir_version: int = 8,
    source: str = "x",
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", dtype, [1])
    y = helper.make_tensor_value_info("y", dtype, [1])
    node = helper.make_node(op, [source], ["y"], domain=domain)
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    graph = helper.make_graph([node], "g", [x], [y])
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def open_bytes(path: Path, data: bytes) -> object:
    path.write_bytes(data)
    file = File(path.name, "", len(data), "model")
    return CPU.open(OnnxArtifact((file,), (), (), folder=path.parent), Target("ort-cpu"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"not a model at all", "m.onnx is not an ONNX model, or it is cut off"),
        (b"", "m.onnx is not an ONNX model: it has no graph"),
        (model(opset=99), r"uses opset 99, and this onnxruntime knows up to \d+: .*pip install -U"),
        (model(ir_version=99), r"has IR version 99, and this onnxruntime knows up to \d+"),
        (model(op="Foo"), "uses operator Foo, which opset 17 does not have"),
        (model(op="Foo", domain="my.ops"), "uses the custom operator my.ops::Foo"),
        (model(source="z"), "cannot be run by ONNX Runtime: .*Node input 'z'"),
        (
            model(op="Relu", dtype=TensorProto.INT16),
            r"uses Relu \(since opset 14\) with types for which this .* has no kernel: raise its",
        ),
    ],
    ids=["text", "empty", "opset", "ir", "operator", "custom", "dangling", "kernel"],
)
def test_a_model_that_cannot_be_opened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], bad: Any, message: str
) -> None:
    data = bad if isinstance(bad, bytes) else bad.SerializeToString()
    with pytest.raises(BadInputError, match=message) as caught:
        open_bytes(tmp_path / "m.onnx", data)

    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_model_cut_off_in_the_middle(tmp_path: Path) -> None:
    whole = model()
    weights = numpy_helper.from_array(np.zeros(1000, np.float32), "w")
    whole.graph.initializer.append(weights)
    data = whole.SerializeToString()
    with pytest.raises(BadInputError, match="is not an ONNX model, or it is cut off"):
        open_bytes(tmp_path / "m.onnx", data[: len(data) // 2])


@pytest.mark.parametrize(
    ("location", "message"),
    [("gone.data", "keeps its weights in .*gone.data, which is missing"), ("../w", "refused")],
)
def test_external_data_that_is_missing_or_outside(
    tmp_path: Path, location: str, message: str
) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "w").write_bytes(bytes(4000))
    whole = model(op="Relu", source="w")
    weights = numpy_helper.from_array(np.zeros(1000, np.float32), "w")
    onnx.external_data_helper.set_external_data(weights, location)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    whole.graph.initializer.append(weights)
    with pytest.raises(BadInputError, match=message):
        open_bytes(tmp_path / "inside" / "m.onnx", whole.SerializeToString())


def test_memory_that_ran_out_is_the_machines_fault(tmp_path: Path) -> None:
    error = plain_error(RuntimeError("Failed to allocate memory for requested buffer"), tmp_path)

    assert isinstance(error, EnvironmentFailedError)
    assert "memory ran out" in str(error)


def test_an_unknown_error_is_shortened_and_loses_its_source_lines() -> None:
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Something /onnxruntime_src/core/graph.cc:46 void f(int) "
        + "odd " * 200
    )
    told = explain(text)

    assert told.startswith("cannot be run by ONNX Runtime: Something")
    assert "graph.cc" not in told
    assert len(told) < 350


class Value:
    def __init__(self, name: str, type_: str, shape: Any) -> None:
        self.name, self.type, self.shape = name, type_, shape


@pytest.mark.parametrize(
    ("type_", "dtype"),
    [
        ("tensor(float)", "float32"),
        ("tensor(double)", "float64"),
        ("tensor(float16)", "float16"),
        ("tensor(int64)", "int64"),
        ("tensor(uint8)", "uint8"),
        ("tensor(bool)", "bool"),
        ("tensor(string)", "string"),
    ],
)
def test_types_get_numpys_names(type_: str, dtype: str) -> None:
    assert spec_of(Value("x", type_, [2])).dtype == dtype


def test_a_sequence_keeps_its_type_and_has_no_shape() -> None:
    spec = spec_of(Value("s", "seq(tensor(float))", None))

    assert (spec.dtype, spec.shape) == ("seq(tensor(float))", ())


def test_dimensions_without_a_name_get_one() -> None:
    shape = spec_of(Value("x", "tensor(float)", ["N", None, 4])).shape

    assert getattr(shape[0], "name", None) == "N"
    assert getattr(shape[1], "name", None)
    assert shape[1] != shape[0]
    assert shape[2] == 4
