"""Batch norms and average pools as depthwise convolutions: what is computed stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from deploykit.quantize.graph.values import Graph
from deploykit.quantize.prepare.depthwise import as_depthwise

if TYPE_CHECKING:
    from tests.quantize.conftest import MakeModel, Run

BOTH = {"AveragePool", "BatchNormalization"}
NORM = dict.fromkeys("sbmv", (4,))
IMAGES = "(float[N,4,7,6] x) => (float[A,C,H,W] y)"
X = {"x": np.random.default_rng(0).normal(size=(2, 4, 7, 6)).astype(np.float32)}


@pytest.mark.parametrize(
    "text",
    [
        "a = Add(x, x) y = BatchNormalization<epsilon=0.1>(a, s, b, m, v)",
        "y = AveragePool<kernel_shape=[3,2]>(x)",
        "y = AveragePool<kernel_shape=[3,3], strides=[2,1]>(x)",
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
        "y = AveragePool<kernel_shape=[2,2], dilations=[2,1]>(x)",
    ],
)
def test_it_computes_the_same(text: str, make_model: MakeModel, run: Run) -> None:
    weights = NORM if "Batch" in text else {}
    before = shaped(make_model(f"{IMAGES} {{ {text} }}", weights, opset=19))
    graph = Graph(before, None)

    made = as_depthwise(graph, BOTH)

    after = graph.whole()
    assert made == (after.graph.node[-1].name,)
    assert after.graph.node[-1].op_type == "Conv"
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(run(after, X)[0], run(before, X)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",  # edges are means of fewer
        "y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)",
        'y = AveragePool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(x)',
        "y = BatchNormalization(x, s, b, m, negative)",
    ],
)  # fmt: skip
def test_what_stays(text: str, make_model: MakeModel) -> None:
    weights: dict[str, Any] = {"negative": np.full(4, -1, np.float32), **NORM}
    weights = weights if "Batch" in text else {}
    model = make_model(f"{IMAGES} {{ {text} }}", weights)
    graph = Graph(shaped(model), None)

    assert as_depthwise(graph, BOTH) == ()
    assert as_depthwise(graph, set()) == ()


def shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes and names, and nothing else: there is nothing to quantize in these."""
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return onnx.shape_inference.infer_shapes(model)


def test_a_pool_of_unknown_channels_stays(make_model: MakeModel) -> None:
    text = "(float[N,C,H,W] x) => (float[A,B,D,E] y) { y = AveragePool<kernel_shape=[2,2]>(x) }"
    model = make_model(text, {})

    assert as_depthwise(Graph(model, None), BOTH) == ()
