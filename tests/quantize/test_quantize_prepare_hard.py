"""A clipped line, written down in parts, as HardSigmoid: what is computed stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from deploykit.quantize.graph.values import Graph
from deploykit.quantize.prepare.fuse_hard import fuse_hard

if TYPE_CHECKING:
    from tests.quantize.conftest import MakeModel, Run

WEIGHTS: dict[str, Any] = {
    "zero": np.array(0, np.float32),
    "three": np.array([3], np.float32),
    "six": np.array(6, np.float32),
    "sixth": np.array(0.16666667, np.float32),
    "many": np.linspace(1, 6, 8).astype(np.float32),
}
X = {"x": np.linspace(-5, 5, 96).astype(np.float32).reshape(3, 4, 8)}


def named(make_model: MakeModel, nodes: str) -> onnx.ModelProto:
    model = make_model(f"(float[3,4,8] x) => (float[3,4,8] y) {{ {nodes} }}", WEIGHTS, opset=13)
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return model


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)", ["HardSigmoid"]),
        ("a = Add(three, x) b = Clip(a, zero, six) y = Mul(sixth, b)", ["HardSigmoid"]),
        (
            "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six)",
            ["HardSigmoid", "Mul"],
        ),
        (
            "a = Add(x, three) b = Clip(a, zero, six) c = Div(b, six) d = Mul(c, x) y = Neg(d)",
            ["HardSigmoid", "Mul", "Neg"],
        ),
    ],
)
def test_it_computes_the_same(nodes: str, left: list[str], make_model: MakeModel, run: Run) -> None:
    before = named(make_model, nodes)
    graph = Graph(before, None)

    assert fuse_hard(graph) == ("node_b",)

    after = graph.whole()
    assert [node.op_type for node in after.graph.node] == left
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(run(after, X)[0], run(before, X)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, three)",  # up to 2
        "a = Add(x, three) b = Clip(a, zero, six) y = Div(six, b)",
        "a = Add(x, three) b = Clip(a, three, six) y = Div(b, six)",
        "a = Add(x, three) b = Clip(a, zero) y = Div(b, six)",
        "a = Add(x, many) b = Clip(a, zero, six) y = Div(b, six)",
        "a = Sub(x, three) b = Clip(a, zero, six) y = Div(b, six)",
        "a = Add(x, x) b = Clip(a, zero, six) y = Div(b, six)",
        "b = Clip(x, zero, six) y = Div(b, six)",
        "a = Add(x, three) b = Clip(a, zero, six) c = Div(b, six) y = Add(c, b)",
        "a = Add(x, three) b = Clip(a, zero, six) c = Div(b, six) y = Add(c, a)",
        "a = Add(x, three) b = Clip(a, zero, six) c = Add(b, x) y = Div(c, six)",
        "a = Add(x, three) b = Clip(a, zero, six) c = Mul(b, x) d = Mul(c, x) y = Div(d, six)",
        "a = Add(x, three) y = Clip(a, zero, six) z = Div(y, six)",
    ],
)
def test_what_stays(nodes: str, make_model: MakeModel) -> None:
    graph = Graph(named(make_model, nodes), None)

    assert fuse_hard(graph) == ()
