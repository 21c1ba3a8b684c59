"""Which sizes parity is tried at, and which inputs it is fed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploykit.core.errors import BadInputError
from deploykit.core.report import Check, Verdict
from deploykit.core.types import Dim, OnnxArtifact, TensorSpec
from deploykit.flow import verify
from deploykit.flow.verify import difference_text, parity, parity_sizes, real_feeds
from deploykit.load.artifacts import load_artifact
from deploykit.load.datasets import open_data
from deploykit.load.inputs import parse_inputs
from deploykit.runtimes.ort import CPU, OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.load.data import Array


@pytest.mark.parametrize(
    ("inputs", "sizes"),
    [
        (["x=1x3"], [{}]),
        (["x=N[1..64]x3"], [{"N": 1}, {"N": 3}, {"N": 64}]),
        (["x=N[1..2]x3"], [{"N": 1}, {"N": 2}]),
        (["x=N[3..3]x3"], [{"N": 3}]),
        (["x=N[4..16]x3"], [{"N": 4}, {"N": 5}, {"N": 16}]),
        (["x=N[8..32:8]x3"], [{"N": 8}, {"N": 24}, {"N": 32}]),
        (["x=N[64..65]x3"], [{"N": 64}, {"N": 65}]),
        (
            ["x=N[1..4]xL[2..8:2]", "y=N"],
            [{"N": 1, "L": 2}, {"N": 3, "L": 6}, {"N": 4, "L": 8}],
        ),
    ],
)
def test_the_lowest_an_odd_and_the_highest(inputs: list[str], sizes: list[dict[str, int]]) -> None:
    assert list(parity_sizes(parse_inputs(inputs))) == sizes


def test_a_batch_without_an_upper_limit_is_tried_at_a_few_sizes() -> None:
    specs = (TensorSpec("x", "float32", (Dim("N"), 3)),)
    assert parity_sizes(specs) == ({"N": 1}, {"N": 3}, {"N": 8})

    specs = (TensorSpec("x", "float32", (Dim("N", 20), 3)),)
    assert parity_sizes(specs) == ({"N": 20},)


def test_data_fills_the_batch_and_starts_again_where_it_is_short(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.arange(6, dtype=np.float32).reshape(3, 2))
    data = open_data("d.npz", tmp_path)
    fed = real_feeds(parse_inputs(["image=N[1..8]x2"]), {"N": 4}, data)

    assert fed["image"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    fixed = real_feeds(parse_inputs(["image=2x2"]), {}, data)
    assert fixed["image"].tolist() == [[0, 1], [2, 3]]


def test_without_data_the_inputs_are_the_same_every_time() -> None:
    specs = parse_inputs(["x=N[1..8]x2"])

    first, again = (real_feeds(specs, {"N": 4}, None)["x"] for _ in range(2))
    assert first.tolist() == again.tolist()


@pytest.fixture
def double(tmp_path: Path) -> OnnxArtifact:
    """y = x + x, of any two sizes."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [value("x", TensorProto.FLOAT, ["N", "L"])],
        [value("y", TensorProto.FLOAT, ["N", "L"])],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    return load_artifact(tmp_path / "m.onnx")


def times(array: Array, factor: float) -> Array:
    return np.multiply(array, factor, dtype=np.float32)


def test_every_size_is_compared_and_told(double: OnnxArtifact) -> None:
    told: list[tuple[str, float | None]] = []
    found = parity(
        double,
        lambda fed: {"y": times(fed["x"], 2)},
        None,
        progress=lambda *what: told.append(what),
    )

    assert found.failure is None
    assert len(found.checks) == len(told) == 3
    assert all(check.verdict is Verdict.PASSED for check in found.checks)
    assert all(check.name.startswith("parity ort-cpu N=") for check in found.checks)
    assert told[0] == (found.checks[0].name.replace("parity ort-cpu", "parity,"), 0.0)


def test_checks_name_the_sizes_that_were_really_fed(double: OnnxArtifact, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((3, 5), np.float32))
    found = parity(double, lambda fed: {"y": times(fed["x"], 2)}, open_data("d.npz", tmp_path))

    assert [check.name for check in found.checks] == [
        "parity ort-cpu N=1 L=5",
        "parity ort-cpu N=3 L=5",
        "parity ort-cpu N=8 L=5",
    ]


def test_the_first_failure_ends_it_and_has_what_is_needed_to_look_closer(
    double: OnnxArtifact,
) -> None:
    def reference(fed: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": times(fed["x"], 2 if len(fed["x"]) < 3 else 3)}

    found = parity(double, reference, None)
    assert found.failure is not None
    assert [check.verdict for check in found.checks] == [Verdict.PASSED, Verdict.FAILED]
    assert found.failure.check == found.checks[-1]
    assert found.failure.runtime.name == "ort-cpu"
    assert len(found.failure.feeds["x"]) == 3


def test_a_provider_that_is_listed_and_does_not_come_up_is_left_out(
    double: OnnxArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TensorRT in every onnxruntime-gpu; here one that the CPU's build lists."""
    listed = OnnxRuntime("ort-azure", "AzureExecutionProvider", "onnxruntime")
    if listed.missing() is not None:
        pytest.skip("this build of onnxruntime lists no provider that cannot come up")
    monkeypatch.setattr(verify, "RUNTIMES", (listed, CPU))
    found = parity(double, lambda fed: {"y": times(fed["x"], 2)}, None)

    assert found.failure is None
    assert {check.name.split()[1] for check in found.checks} == {"ort-cpu"}


def test_sizes_that_were_a_guess_are_told_where_the_model_refuses_them(
    double: OnnxArtifact,
) -> None:
    def refuses(fed: Mapping[str, Array]) -> dict[str, Array]:
        raise BadInputError("m.onnx takes no such size")

    with pytest.raises(BadInputError) as caught:
        parity(double, refuses, None)
    assert str(caught.value) == (
        "m.onnx takes no such size; N=1 L=32 was a guess: give real inputs with --val, or the "
        'ranges that it takes in --input "x=N[1..]xL[1..]:float32"'
    )


def test_a_network_that_gives_nan_is_refused(double: OnnxArtifact) -> None:
    with pytest.raises(BadInputError, match="the network itself gives NaN in output 'y'"):
        parity(double, lambda fed: {"y": times(fed["x"], np.nan)}, None)


def test_an_output_that_is_no_tensor_cannot_be_compared(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["y"])],
        "list",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(BadInputError) as caught:
        parity(load_artifact(tmp_path / "m.onnx"), lambda fed: {"y": fed["x"]}, None)

    assert str(caught.value) == (
        "output 'y' is a list, no tensor, and cannot be compared: end the graph before it"
    )


def test_what_a_failed_check_says() -> None:
    check = Check(
        "parity ort-cpu N=1", Verdict.FAILED, 0.25, limit=1e-4, advice="output 'y' differs"
    )
    assert difference_text(check) == (
        "parity ort-cpu N=1: output 'y' differs by 0.25 (limit 0.0001)"
    )
    check = Check("parity ort-cpu N=1", Verdict.FAILED, limit=1e-4, advice="output 'y' is missing")
    assert difference_text(check) == "parity ort-cpu N=1: output 'y' is missing"
