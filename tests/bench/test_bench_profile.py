"""Time by node and operator: how a profile is read, and that a real one has its nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bench.profile import NodeTime, node_times, operator_times, profile_nodes
from deploykit.core.errors import BadInputError, MissingExtraError
from deploykit.load.artifacts import load_artifact
from deploykit.runtimes.ort import CPU, PROVIDERS

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import OnnxArtifact


def _run(ts: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": 90, "args": {}}


def _kernel(name: str, op: str, ts: int, dur: int, index: int = 0) -> dict[str, Any]:
    args = {"op_name": op, "provider": "CPUExecutionProvider", "node_index": str(index)}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def test_runs_of_the_warm_up_are_left_out() -> None:
    # Events come in the order in which they ended: a run after its kernels.
    events = [
        _kernel("conv", "Conv", 101, 5000), _run(100),
        _kernel("conv", "Conv", 201, 30), _kernel("act", "Relu", 231, 4), _run(200),
        _kernel("conv", "Conv", 301, 50), _kernel("act", "Relu", 351, 6), _run(300),
    ]  # fmt: skip

    nodes = node_times(events, warmup_runs=1)  # type: ignore[arg-type]  # plain dictionaries

    cpu = "CPUExecutionProvider"
    assert nodes == (
        NodeTime("conv", "Conv", cpu, calls=1.0, time_ns=40_000),
        NodeTime("act", "Relu", cpu, calls=1.0, time_ns=5_000),
    )


def test_a_loop_is_its_body_and_not_counted_twice() -> None:
    events = [
        _kernel("step", "MatMul", 101, 10), _kernel("step", "MatMul", 111, 20),
        _kernel("loop", "Loop", 100, 35), _run(99),
    ]  # fmt: skip

    (step,) = node_times(events, warmup_runs=0)  # type: ignore[arg-type]  # plain dictionaries

    assert (step.calls, step.time_ns) == (2.0, 30_000)


def test_nodes_of_one_name_are_told_apart() -> None:
    events = [_kernel("", "Gather", 1, 3, index=1), _kernel("", "Gather", 5, 4, index=2), _run(0)]

    nodes = node_times(events, warmup_runs=0)  # type: ignore[arg-type]  # plain dictionaries

    assert [node.time_ns for node in nodes] == [4_000, 3_000]


def test_fewer_runs_than_the_warm_up_tell_nothing() -> None:
    events = [_kernel("a", "Relu", 1, 3), _run(0)]

    assert node_times(events, warmup_runs=1) == ()  # type: ignore[arg-type]  # plain dictionaries


def test_operators_are_added_up_and_their_shares_are_of_the_whole() -> None:
    nodes = [NodeTime(name, op, "", 1.0, time) for name, op, time in (
        ("a", "Conv", 50.0), ("b", "Relu", 25.0), ("c", "Conv", 25.0),
    )]  # fmt: skip

    conv, relu = operator_times(nodes)

    assert (conv.op, conv.nodes, conv.time_ns, conv.share) == ("Conv", 2, 75.0, 0.75)
    assert (relu.op, relu.nodes, relu.time_ns, relu.share) == ("Relu", 1, 25.0, 0.25)


def test_kernels_too_quick_to_see_have_no_share() -> None:
    assert operator_times([NodeTime("a", "Relu", "", 1.0, 0.0)])[0].share == 0.0


@pytest.fixture
def artifact(tmp_path: Path) -> OnnxArtifact:
    weights = numpy_helper.from_array(np.ones((64, 32), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
            helper.make_node("Sin", ["h"], ["y"], name="wave"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32])],
        [weights],
    )
    opset = [helper.make_opsetid("", 13)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opset), path)
    return load_artifact(path)


def test_a_real_profile_has_every_node_once_and_leaves_no_file(
    artifact: OnnxArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    nodes = profile_nodes(artifact, {"x": np.ones((3, 64), np.float32)}, CPU, threads=1)

    assert {(node.name, node.op, node.calls) for node in nodes} == {
        ("product", "MatMul", 1.0),
        ("wave", "Sin", 1.0),
    }
    own = {".ses"}  # ONNX Runtime's, one in the folder of temporary files, whoever runs it
    assert {path.name for path in tmp_path.iterdir()} - own == {"model.onnx"}


def test_inputs_that_do_not_fit_are_refused(artifact: OnnxArtifact) -> None:
    with pytest.raises(BadInputError, match="input 'x' takes shape"):
        profile_nodes(artifact, {"x": np.ones((3, 63), np.float32)}, CPU)


def test_a_runtime_that_is_not_there_is_named(artifact: OnnxArtifact) -> None:
    absent = next(runtime for runtime in PROVIDERS if runtime.missing() is not None)

    with pytest.raises(MissingExtraError, match=f"{absent.name} cannot run here"):
        profile_nodes(artifact, {"x": np.ones((3, 64), np.float32)}, absent)
