"""What every runtime promises, asked of every one in `RUNTIMES`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploykit.core.errors import BadInputError, DeploykitError, MissingExtraError
from deploykit.core.measurement import Target
from deploykit.core.types import Dim, TensorSpec
from deploykit.load.artifacts import load_artifact
from deploykit.load.sources import Source
from deploykit.runtimes import RUNTIMES, runtime_named
from deploykit.runtimes.ort import CPU, TINY_MODEL, OnnxRuntime

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.runtimes.base import Runtime, Session

NET = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return 2 * x + 1, x.sum(1)
"""


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """The same network, y = 2x + 1 and z = sum(x), in each format."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["double"]),
        helper.make_node("Add", ["double", "one"], ["y"]),
        helper.make_node("ReduceSum", ["x", "axis"], ["z"], keepdims=0),
    ]
    constants = [
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(nodes, "g", [x], [y, z], constants)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    (tmp_path / "net.py").write_text(NET)
    inputs = (TensorSpec("x", "float32", (Dim("N", 1, 64), 3)),)
    return {
        "onnx": load_artifact(tmp_path / "m.onnx"),
        "pytorch": Source(f"{tmp_path / 'net.py'}:Net", inputs=inputs),
    }


Models: TypeAlias = "dict[str, Any]"
HERE = [runtime for runtime in RUNTIMES if runtime.missing() is None]
MISSING = [runtime for runtime in RUNTIMES if runtime.missing() is not None]
everywhere = pytest.mark.parametrize("runtime", HERE, ids=lambda runtime: runtime.name)


def opened(runtime: Runtime, models: Models, **target: Any) -> Session:
    return runtime.open(models[runtime.format], Target(runtime.name, runtime.device, **target))


def test_the_runtimes_that_must_be_here_are() -> None:
    """`DEPLOYKIT_REQUIRE=ort-cuda` is how a machine that has it makes sure that it is tested."""
    needed = {"ort-cpu", "torch-eager", *os.environ.get("DEPLOYKIT_REQUIRE", "").split()}

    assert needed & {runtime.name for runtime in MISSING} == set()


def test_names_are_unique() -> None:
    names = [runtime.name for runtime in RUNTIMES]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_it_is_found_by_its_name(runtime: Runtime) -> None:
    assert runtime_named(runtime.name) is runtime


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(BadInputError, match="no runtime 'ort-cdua'; did you mean 'ort-cuda'"):
        runtime_named("ort-cdua")


@pytest.mark.parametrize("runtime", MISSING, ids=lambda runtime: runtime.name)
def test_one_that_is_missing_says_what_to_install_and_refuses(
    runtime: Runtime, models: Models
) -> None:
    assert "pip install" in (runtime.missing() or "")
    with pytest.raises(MissingExtraError, match=f"{runtime.name} cannot run here: .*pip install"):
        runtime.open(models[runtime.format], Target(runtime.name))


@everywhere
def test_it_computes_what_the_network_says(runtime: Runtime, models: Models) -> None:
    session = opened(runtime, models, threads=1)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y, z = (np.asarray(output, np.float32) for output in session.bind({"x": x})())

    np.testing.assert_allclose(y, 2 * x + 1)
    np.testing.assert_allclose(z, x.sum(1))
    session.close()
    session.close()


@everywhere
def test_it_tells_its_inputs_with_their_ranges(runtime: Runtime, models: Models) -> None:
    session = opened(runtime, models)

    assert [(spec.name, spec.dtype) for spec in session.inputs] == [("x", "float32")]
    assert isinstance(session.inputs[0].shape[0], Dim)
    assert session.inputs[0].shape[1] == 3


@everywhere
def test_threads_are_in_force(runtime: Runtime, models: Models) -> None:
    assert opened(runtime, models, threads=1).facts()["intra_op_threads"] == 1


@everywhere
@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"y": np.zeros((1, 3), np.float32)}, "no input 'y'; known: x"),
        ({}, "input 'x' is not fed"),
        ({"x": np.zeros((1, 3))}, "'x' takes float32, not float64"),
        ({"x": np.zeros((1, 4), np.float32)}, r"'x' takes shape N\[1..\d*\]x3, not \[1, 4\]"),
        ({"x": np.zeros(3, np.float32)}, r"not \[3\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(
    runtime: Runtime, models: Models, feeds: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        opened(runtime, models).bind(feeds)


@everywhere
def test_the_other_format_is_refused(runtime: Runtime, models: Models) -> None:
    other = models["pytorch" if runtime.format == "onnx" else "onnx"]
    with pytest.raises(BadInputError, match=f"^{runtime.name} runs "):
        runtime.open(other, Target(runtime.name))


@everywhere
def test_an_unknown_option_is_refused(runtime: Runtime, models: Models) -> None:
    with pytest.raises(BadInputError, match="no option 'spn'"):
        opened(runtime, models, options={"spn": "on"})


@pytest.mark.parametrize("option", ["all", "extended", "basic", "disable"])
def test_optimization_is_recorded(models: Models, option: str) -> None:
    session = opened(CPU, models, options={"optimization": option, "spin": "off"})

    assert session.facts()["optimization"] == option
    assert session.facts()["spin"] == "off"


def test_an_option_with_a_wrong_value_is_refused(models: Models) -> None:
    with pytest.raises(
        BadInputError, match=r"optimization is one of .*, not 'al'; did you mean 'all'"
    ):
        opened(CPU, models, options={"optimization": "al"})


class Dropped:
    """A session whose provider did not come up, as ONNX Runtime leaves it."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


class Part:
    def __init__(self, provider: str, nodes: int) -> None:
        self.ep_name = provider
        self.nodes = nodes

    def get_nodes(self) -> list[None]:
        return [None] * self.nodes


class Placed:
    """A session with its nodes placed."""

    def __init__(self, *parts: Part) -> None:
        self.parts = parts

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> tuple[Part, ...]:
        return self.parts


CUDA = runtime_named("ort-cuda")


def test_a_provider_that_did_not_come_up_is_refused() -> None:
    assert isinstance(CUDA, OnnxRuntime)
    with pytest.raises(
        DeploykitError, match=r"did not come up .* fell back to CPUExecutionProvider"
    ):
        CUDA._placed(Dropped())


def test_a_provider_without_a_single_node_is_refused() -> None:
    assert isinstance(CUDA, OnnxRuntime)
    with pytest.raises(DeploykitError, match="takes none of this model's 7 nodes"):
        CUDA._placed(Placed(Part("CPUExecutionProvider", 7)))


def test_nodes_left_on_the_cpu_are_counted() -> None:
    assert isinstance(CUDA, OnnxRuntime)
    placed = CUDA._placed(
        Placed(
            Part("CUDAExecutionProvider", 5),
            Part("CPUExecutionProvider", 1),
            Part("CPUExecutionProvider", 1),
        )
    )

    assert placed == {"CUDAExecutionProvider": 5, "CPUExecutionProvider": 2}


def test_onnxruntime_tells_where_nodes_run(models: Models) -> None:
    """The interface that the refusal rests on, as it really answers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(
        models["onnx"].model_path, options, providers=["CPUExecutionProvider"]
    )
    parts = session.get_provider_graph_assignment_info()

    assert {part.ep_name for part in parts} == {"CPUExecutionProvider"}
    assert sorted(n.op_type for part in parts for n in part.get_nodes()) == [
        "Add",
        "Mul",
        "ReduceSum",
    ]


def test_the_tiny_model_is_a_valid_onnx_file() -> None:
    onnx.checker.check_model(onnx.load_from_string(TINY_MODEL), full_check=True)


def test_running_onnx_imports_neither_torch_nor_onnx_nor_rich(models: Models) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from deploykit.core.measurement import Target\n"
        "from deploykit.core.types import File, OnnxArtifact\n"
        "import deploykit.bench.worker\n"
        "from deploykit.runtimes import runtime_named\n"
        "file = File(sys.argv[1], '', 0, 'model')\n"
        "artifact = OnnxArtifact((file,), (), (), folder=Path('/'))\n"
        "runtime = runtime_named('ort-cpu')\n"
        "runtime.warm_imports()\n"
        "session = runtime.open(artifact, Target('ort-cpu'))\n"
        "print({'torch', 'onnx', 'rich', 'click'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(models["onnx"].model_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.strip() == "set()"
    assert done.stderr == ""
