"""Quantization end to end, on a small network and scikit-learn's digits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.report import Verdict
from deploykit.flow.quantize.quantize import QuantizeRequest, run_quantize
from deploykit.flow.quantize.record import (
    QUANTIZATION,
    QUANTIZATION_NAME,
    RANGES_NAME,
    Quantization,
)
from deploykit.load.artifacts import load_artifact
from deploykit.quantize.ranges import RANGES, Ranges

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = "digits[:64]"


@pytest.fixture
def request_(tmp_path: Path, float_network: Callable[..., Path]) -> QuantizeRequest:
    return QuantizeRequest(
        float_network(tmp_path / "net.onnx"),
        tmp_path / "out",
        DATA,
        val="digits[64:200]",
        measure=False,
    )


def test_the_folder_has_the_network_its_ranges_and_reasons(request_: QuantizeRequest) -> None:
    result = run_quantize(request_)
    out = request_.out

    assert {path.name for path in out.iterdir()} == {
        "artifact.json", "model.onnx", "quantization.json", "ranges.json", "report.json",
    }  # fmt: skip
    artifact = load_artifact(out)
    assert artifact == result.artifact
    assert artifact.history[-1].name == "quantize"
    assert artifact.history[-1].options["target"] == "ort-cpu"
    record = records.load(out / QUANTIZATION_NAME, Quantization, QUANTIZATION)
    assert {row.node: row.kept_float for row in record.layers} == dict.fromkeys(
        ("first", "second", "pool", "flat", "head"), ""
    )
    ranges = records.load(out / RANGES_NAME, Ranges, RANGES)
    assert [one.tensor for one in ranges.tensors] == ["x", "b", "d", "e"]
    assert ranges.samples == 64
    assert ranges.tensors[1].low == 0.0
    proof = result.report.checks[0]
    assert (proof.name, proof.verdict) == (
        "nodes between quantizers that ort-cpu runs in float",
        Verdict.PASSED,
    )
    assert (result.report.checks[1].name, result.report.checks[1].verdict) == (
        "quantizers that no integer kernel of ort-cpu took",
        Verdict.PASSED,
    )
    lost = next(check for check in result.report.checks if " lost " in check.name)
    assert lost.verdict is Verdict.PASSED
    assert lost.value is not None
    assert abs(lost.value) < 5  # points, of a network that guesses


def test_the_same_input_gives_the_same_bytes(request_: QuantizeRequest, tmp_path: Path) -> None:
    run_quantize(request_)
    run_quantize(replace(request_, out=tmp_path / "again"))

    files = [sorted(folder.iterdir()) for folder in (request_.out, tmp_path / "again")]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt", "portable"])
@pytest.mark.parametrize("method", ["min-max", "moving-average", "percentile", "entropy", "mse"])
def test_every_method_for_every_target(request_: QuantizeRequest, target: str, method: str) -> None:
    result = run_quantize(replace(request_, changes={"target": target, "method": method}))

    float_, int8 = (c.value for c in result.report.checks if c.unit == "%")
    assert float_ is not None
    assert int8 is not None
    assert abs(float_ - int8) < 12  # points, of a network that guesses


def test_a_fixed_batch_is_filled(
    request_: QuantizeRequest, tmp_path: Path, float_network: Callable[..., Path]
) -> None:
    fixed = replace(request_, source=float_network(tmp_path / "fixed.onnx", batch=24))

    result = run_quantize(fixed)

    assert result.quantization.samples == 64


def test_a_network_is_not_quantized_twice(request_: QuantizeRequest, tmp_path: Path) -> None:
    run_quantize(request_)

    with pytest.raises(BadInputError, match="quantized"):
        run_quantize(replace(request_, source=request_.out, out=tmp_path / "twice"))
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"calibrate": "fashion-mnist-compact"}, "gives shape [1, 1, 28, 28] for input 'x'"),
        ({"calibrate": "digits[:0]"}, "is empty"),
        ({"calibrate": "digitz"}, "digitz"),
        ({"changes": {"target": "ort"}}, "target 'ort' has no table of quantizers"),
        ({"changes": {"method": "minmax"}}, "no calibration method 'minmax'; did you mean 'min-m"),
        ({"changes": {"samples": 0}}, "samples must be 1 or more, not 0"),
        ({"changes": {"exclude": ("heat",)}}, "operator of this graph; did you mean 'head'?"),
        ({"changes": {"exclude": ("Conv", "head")}}, "no node can be quantized for ort-cpu: "),
        ({"changes": {"targt": "x"}}, "quantize: unknown key 'targt'; did you mean 'target'?"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(
    request_: QuantizeRequest, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInputError) as raised:
        run_quantize(replace(request_, **change))

    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not request_.out.exists()


def test_no_number_in_the_data_is_told_with_its_tensor(
    request_: QuantizeRequest, tmp_path: Path
) -> None:
    images = np.zeros((20, 1, 8, 8), np.float32)
    images[17, 0, 3, 3] = np.nan
    np.savez(tmp_path / "bad.npz", x=images)

    with pytest.raises(BadInputError, match=r"\bx\b"):
        run_quantize(replace(request_, calibrate=str(tmp_path / "bad.npz"), val=""))
    assert not request_.out.exists()


def test_excluded_nodes_stay_float(request_: QuantizeRequest) -> None:
    result = run_quantize(replace(request_, changes={"exclude": ("sec*",)}))

    rows = {row.node: row.kept_float for row in result.quantization.layers}
    assert rows["second"] == "it is excluded"
    assert rows["first"] == ""


@pytest.mark.slow
def test_latency_is_measured_and_recorded(request_: QuantizeRequest) -> None:
    result = run_quantize(replace(request_, measure=True, threads=1, force=True, val=""))

    check = result.report.checks[2]
    assert check.name.startswith("latency on ort-cpu, of the original's ")
    assert check.value is not None
    assert check.value > 0
    assert json.loads((request_.out / "report.json").read_text())["checks"]


def test_an_artifact_is_replaced_on_request_only(request_: QuantizeRequest) -> None:
    run_quantize(request_)

    with pytest.raises(BadInputError, match="--overwrite"):
        run_quantize(request_)
    again = run_quantize(replace(request_, overwrite=True, changes={"method": "mse"}))
    assert again.artifact.history[-1].options["method"] == "mse"
