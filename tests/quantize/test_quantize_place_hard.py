"""HardSigmoid and HardSwish as integer sums and products: the numbers are theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from deploykit.quantize.graph.wiring import Wiring
from deploykit.quantize.place.decide import decide
from deploykit.quantize.place.emit import emit
from deploykit.quantize.place.targets import ORT_CPU
from deploykit.quantize.ranges import Range
from tests.quantize.test_quantize_place import Net

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

STEPS = np.arange(256)


def net_of(op: str, **attributes: Any) -> onnx.ModelProto:
    """The op behind and before a convolution that changes nothing."""
    net = Net(x=(1, 1, 16, 16))
    net("Conv", "x", np.ones((1, 1, 1, 1), np.float32), to="a")
    net(op, "a", to="h", **attributes)
    net("Conv", "h", np.ones((1, 1, 1, 1), np.float32), to="y")
    return net.model("y")


def hard_sigmoid(x: NDArray[Any], alpha: float = 0.2, beta: float = 0.5) -> NDArray[Any]:
    return np.asarray(np.clip(alpha * x + beta, 0, 1))


def hard_swish(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(x * hard_sigmoid(x, 1 / 6, 0.5))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("HardSwish", {}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("HardSigmoid", {"alpha": 1.0, "beta": 0.0}),
        ("HardSigmoid", {"alpha": 0.5, "beta": -0.25}),
    ],
)
def test_all_256_integers_come_out_as_they_should(op: str, attributes: dict[str, float]) -> None:
    model = net_of(op, **attributes)
    step, zero = 0.05, 100  # -5 to 7.75
    x = ((STEPS - zero) * step).astype(np.float32)
    expected = hard_swish(x) if op == "HardSwish" else hard_sigmoid(x, **attributes)
    low, high = float(expected.min()), float(expected.max())
    ends = {"x": (x.min(), x.max()), "a": (x.min(), x.max()), "h": (low, high), "y": (low, high)}
    ranges = {name: Range(name, float(one), float(other)) for name, (one, other) in ends.items()}

    made = emit(model, ORT_CPU, decide(Wiring.of(model), ORT_CPU, ranges), ranges)

    result_step = (high - min(low, 0)) / 255
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(made.SerializeToString(), options)
        found = session.run(None, {"x": x.reshape(1, 1, 16, 16)})[0].ravel()
        # The gate of a HardSwish is rounded to 1/255 before the product is.
        rounded = np.abs(x) / 510 if op == "HardSwish" else 0.0
        wrong = np.abs(found - expected) - rounded
        assert wrong.max() < 1.1 * result_step
        assert np.abs(found - expected).mean() < 0.5 * result_step


def test_a_range_from_elsewhere_does_not_move_the_clip() -> None:
    model = net_of("HardSigmoid")
    ranges = {name: Range(name, -4.0, 4.0) for name in "xahy"}

    made = emit(model, ORT_CPU, decide(Wiring.of(model), ORT_CPU, ranges), ranges)

    session = onnxruntime.InferenceSession(made.SerializeToString())
    found = session.run(None, {"x": np.full((1, 1, 16, 16), 4, np.float32)})[0]
    np.testing.assert_allclose(found, 1.0, atol=0.02)


@pytest.mark.parametrize("alpha", [0.0, -0.2, float("inf")])
def test_what_does_not_rise_stays(alpha: float) -> None:
    model = net_of("HardSigmoid", alpha=alpha)
    ranges = {name: Range(name, -1.0, 1.0) for name in "xahy"}

    decision = decide(Wiring.of(model), ORT_CPU, ranges)

    assert [(one.op, one.why) for one in decision.left] == [
        ("HardSigmoid", f"it does not rise (alpha {alpha:g}, beta 0.5)")
    ]
