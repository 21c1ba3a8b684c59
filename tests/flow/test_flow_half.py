"""Half precision end to end: by hand, and as the end of an export."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.report import Verdict
from deploykit.flow.export import ExportRequest, run_export
from deploykit.flow.half.half import run_half
from deploykit.flow.half.record import HALF, HALF_NAME, Half
from deploykit.flow.half.request import HalfRequest
from deploykit.load.artifacts import load_artifact
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def request_(tmp_path: Path, float_network: Callable[..., Path]) -> HalfRequest:
    source = float_network(tmp_path / "net.onnx")
    return HalfRequest(source, tmp_path / "out", val="digits[64:164]")


def overflowing(path: Path) -> Path:
    """Digits times 1e6 and back."""
    nodes = [
        helper.make_node("Mul", ["x", "up"], ["a"], "large"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Mul", ["b", "down"], ["c"], "small"),
        helper.make_node("Flatten", ["c"], ["d"], "flat"),
        helper.make_node("MatMul", ["d", "w"], ["y"], "head"),
    ]
    weights = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    constants = {"up": np.float32(6e4), "down": np.float32(1e-3), "w": weights}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_the_folder_has_the_network_and_its_list(request_: HalfRequest) -> None:
    result = run_half(request_)
    out = request_.out

    assert {path.name for path in out.iterdir()} == {
        "artifact.json", "half.json", "model.onnx", "report.json",
    }  # fmt: skip
    artifact = load_artifact(out)
    assert artifact == result.artifact
    assert artifact.history[-1].name == "fp16"
    assert [spec.dtype for spec in (*artifact.inputs, *artifact.outputs)] == ["float32"] * 2
    record = records.load(out / HALF_NAME, Half, HALF)
    assert record == result.half
    assert {row.kept_float for row in record.layers} == {""}
    assert record.samples == 0
    assert record.bytes_after < record.bytes_before * 0.75
    names = [check.name for check in result.report.checks]
    assert names[0] == "parity with every fp16 value rounded N=1"
    assert names[1] == "parity ort-cpu, which computes fp16 in float32"
    assert names[-1] == "top-1 lost val: digits[64:164]"
    assert result.report.passed


def test_the_same_input_gives_the_same_bytes(request_: HalfRequest, tmp_path: Path) -> None:
    run_half(request_)
    run_half(replace(request_, out=tmp_path / "again"))

    files = [sorted(folder.iterdir()) for folder in (request_.out, tmp_path / "again")]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_an_overflow_is_found_without_a_gpu_and_mended_by_data(tmp_path: Path) -> None:
    request = HalfRequest(overflowing(tmp_path / "net.onnx"), tmp_path / "out", val="digits[:64]")
    with pytest.raises(CheckFailedError) as caught:
        run_half(request)
    assert str(caught.value).startswith("parity with every fp16 value rounded N=1: output 'y' ")
    assert str(caught.value).endswith(
        "; nothing was written; give --calibrate data, or --exclude layers that need float32, or "
        "allow more with --tolerance"
    )
    assert not (tmp_path / "out").exists()

    mended = run_half(replace(request, calibrate="digits[:64]"))
    stays = {row.node: row.kept_float for row in mended.half.layers if row.kept_float}
    assert set(stays) == {"large", "relu", "small"}
    assert all(why.startswith(("a reaches", "b reaches")) for why in stays.values())
    assert mended.half.samples == 64
    assert mended.report.passed


def test_layers_are_excluded_by_hand(tmp_path: Path) -> None:
    request = HalfRequest(
        overflowing(tmp_path / "net.onnx"),
        tmp_path / "out",
        changes={"exclude": ("large", "relu", "small")},
        val="digits[:64]",
    )
    assert run_half(request).half.layers[0].kept_float == "it is excluded"


def test_half_inputs_are_fed_and_recorded(request_: HalfRequest) -> None:
    result = run_half(replace(request_, changes={"half_io": True}))

    artifact = result.artifact
    assert [spec.dtype for spec in (*artifact.inputs, *artifact.outputs)] == ["float16"] * 2
    again = run_export(ExportRequest(Source(str(request_.out)), request_.out.with_name("again")))
    assert again.artifact.inputs == artifact.inputs


def test_bf16_says_what_was_not_run(request_: HalfRequest) -> None:
    changes = {"target": "tensorrt"}
    result = run_half(replace(request_, precision="bf16", changes=changes))

    check = next(one for one in result.report.checks if one.name == "runs on ort-cpu")
    assert check.verdict is Verdict.CANNOT_TELL
    assert check.advice == "not run here: ort-cpu has no kernels for it; run it on the target"
    assert any(one.name.startswith("parity with every bf16") for one in result.report.checks)


def test_a_float16_network_is_not_converted_twice(request_: HalfRequest) -> None:
    run_half(request_)
    with pytest.raises(BadInputError) as caught:
        run_half(replace(request_, source=request_.out, out=request_.out.with_name("twice")))
    assert "computes in float16: give the float32 network" in str(caught.value)
    assert not request_.out.with_name("twice").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"precision": "fp61"}, "precision 'fp61' is not of 16 bits; did you mean 'fp16'?"),
        ({"changes": {"target": "tensort"}}, "did you mean 'tensorrt'?"),
        ({"changes": {"exclude": ("heat",)}}, "did you mean 'head'?"),
        ({"changes": {"exlude": ("head",)}}, "fp16: unknown key 'exlude'; did you mean 'exclude'"),
        ({"calibrate": "digits[:0]"}, "is empty"),
        ({"calibrate": "fashion-mnist-compact"}, "gives shape [1, 1, 28, 28] for input 'x'"),
        ({"limit": 1e-9}, "parity with every fp16 value rounded N=1: output 'y' differs by "),
    ],
)
def test_bad_input_is_told_in_one_line(
    request_: HalfRequest, change: dict[str, Any], says: str
) -> None:
    with pytest.raises((BadInputError, CheckFailedError)) as raised:
        run_half(replace(request_, **change))

    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not request_.out.exists()


def test_no_number_in_the_data_is_told(request_: HalfRequest, tmp_path: Path) -> None:
    images = np.zeros((20, 1, 8, 8), np.float32)
    images[0, 0, 3, 3] = np.nan
    np.savez(tmp_path / "bad.npz", x=images)

    with pytest.raises(BadInputError, match=r"has NaN or infinite values for input 'x'"):
        run_half(replace(request_, calibrate=str(tmp_path / "bad.npz")))
    assert not request_.out.exists()


def test_export_ends_in_half(request_: HalfRequest, tmp_path: Path) -> None:
    lower = {"precision": "fp16", "calibrate": "digits[:32]", "target": "ort-cuda"}
    request = ExportRequest(Source(str(request_.source)), tmp_path / "out", lower=lower)
    result = run_export(request)

    assert isinstance(result.lowered, Half)
    assert (result.lowered.target, result.lowered.samples) == ("ort-cuda", 32)
    assert result.report.checks[0].name.startswith("float32 parity ort-cpu ")
    assert result.artifact.history[-1].name == "fp16"


def transposed(path: Path, length: int) -> Path:
    """A recurrent network's way: x [N, L, 8] -> MatMul of [L, N, 8], for a single L."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], "time_first", perm=[1, 0, 2]),
        helper.make_node("Reshape", ["a", "shape"], ["b"], "fixed"),
        helper.make_node("MatMul", ["a", "w"], ["c"], "head"),
        helper.make_node("MatMul", ["b", "w"], ["d"], "other"),
        helper.make_node("Add", ["c", "d"], ["y"], "sum"),
    ]
    constants = {
        "shape": np.array([length, -1, 8]),
        "w": np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "L", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["L", "N", 5])],
        [numpy_helper.from_array(one, name) for name, one in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.save(model, path)
    return path


def test_calibration_data_says_which_sizes_the_network_takes(tmp_path: Path) -> None:
    # Also: ONNX Runtime's last optimisations for CPUs end the process at this Transpose.
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(4, 6, 8)))
    request = HalfRequest(transposed(tmp_path / "net.onnx", 6), tmp_path / "out")

    with pytest.raises(
        BadInputError, match=r"; N=1 L=32 was a guess: give --calibrate or --val data$"
    ):
        run_half(request)
    result = run_half(replace(request, calibrate=str(tmp_path / "x.npz")))

    names = [check.name for check in result.report.checks]
    assert names[0] == "parity with every fp16 value rounded N=1 L=6"
    assert result.report.passed


def test_a_whole_call_is_proved_as_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(3, 6, 8)))
    source, data = transposed(tmp_path / "net.onnx", 6), f"{tmp_path / 'x.npz'}?whole=yes"

    result = run_half(HalfRequest(source, tmp_path / "out", calibrate=data))

    names = [check.name for check in result.report.checks]
    assert names[0] == "parity with every fp16 value rounded N=3 L=6"
