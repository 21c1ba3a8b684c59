"""What tests of several rooms share: how examples are drawn, and networks made in code."""

from __future__ import annotations

import gc
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

# The same examples every time, and as long as they take: machines that run tests are busy.
settings.register_profile(
    "deploykit",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deploykit")

# What a script starts with "&" ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _no_garbage_before() -> None:
    """What is there before a file's tests, mostly modules, is never looked at for garbage.

    torch and its exporter leave a million objects; `gc.collect`, which the oracle of pruning calls,
    took half a second each time, two fifths of what the tests of pruning took.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def float_network() -> Callable[..., Path]:
    """Writes a small network with random weights for scikit-learn's digits."""
    return _network


def _network(path: Path, batch: int | str = "N", activation: str = "Relu") -> Path:
    """Conv, Relu, Conv, Relu, pool, Gemm."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> NDArray[Any]:
        values: NDArray[Any] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return values.astype(np.float32)

    constants = {
        "w1": weight(8, 1, 3, 3), "b1": weight(8), "w2": weight(16, 8, 3, 3), "b2": weight(16),
        "w3": weight(10, 16), "b3": weight(10),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], "second"),
        helper.make_node("Relu", ["c"], ["d"], "relu_2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Flatten", ["e"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
