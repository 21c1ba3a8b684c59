"""Raising a graph to opset 13: every operator whose signature changed computes what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.core.errors import BadInputError
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.quantize.conftest import Array, MakeModel, Prove

IMAGE = "float[1,4,6,6] x"
ROWS = "float[N,5,4] x"
SCALES = {"scales": np.array([1, 1, 2, 1.5], np.float32)}


@pytest.mark.parametrize(
    ("opset", "given", "node", "constants"),
    [
        (7, ROWS, "a = Clip<min=-1.0, max=1.0>(x)", {}),
        (7, ROWS, "a = Clip<max=1.0>(x)", {}),
        (11, ROWS, "a = Clip(x, , most)", {"most": np.array(0.5, np.float32)}),
        (7, ROWS, "a = Softmax(x)", {}),
        (9, ROWS, "a = Softmax<axis=1>(x)", {}),
        (11, ROWS, "a = Softmax<axis=-1>(x)", {}),
        (11, ROWS, "a = LogSoftmax<axis=0>(x)", {}),
        (7, ROWS, "a = ReduceSum<axes=[1], keepdims=0>(x)", {}),
        (11, ROWS, "a = ReduceSum<axes=[-2]>(x)", {}),
        (7, ROWS, "a = ReduceMean<axes=[1]>(x)", {}),
        (7, ROWS, "u = Unsqueeze<axes=[0]>(x) a = Squeeze<axes=[0]>(u)", {}),
        (11, ROWS, "u = Unsqueeze<axes=[-1]>(x) a = Squeeze(u)", {}),
        (7, ROWS, "a = Slice<axes=[1], starts=[1], ends=[4]>(x)", {}),
        (7, ROWS, "b, c = Split<axis=1, split=[2,3]>(x) a = Concat<axis=1>(c, b)", {}),
        (11, ROWS, "b, c = Split<axis=2>(x) a = Concat<axis=2>(c, b)", {}),
        (7, ROWS, "a, i = TopK<k=4>(x)", {}),
        (10, ROWS, "a, i = TopK<axis=1>(x, k)", {"k": np.array([2])}),
        (7, ROWS, "i = ArgMax<axis=1, keepdims=1>(x) f = Cast<to=1>(i) a = Add(x, f)", {}),
        (7, ROWS, "d, m = Dropout<ratio=0.9>(x) a = Relu(d)", {}),
        (10, ROWS, "a = Dropout<ratio=0.9>(x)", {}),
        (7, ROWS, "a = BatchNormalization<epsilon=0.2>(x, s, b, m, v)",
            dict.fromkeys("sbmv", (5,))),
        (7, IMAGE, "p = Pad<pads=[0,0,1,1,0,0,1,0], value=2.0>(x) a = Conv(p, k)",
            {"k": (4, 4, 2, 2)}),
        (7, IMAGE, 'a = Pad<mode="reflect", pads=[0,0,1,1,0,0,1,1]>(x)', {}),
        (7, IMAGE, "a = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}),
        (8, IMAGE, "a, i = MaxPool<kernel_shape=[2,2]>(x)", {}),
        (7, IMAGE, "a = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
            {}),
        (9, IMAGE, 'a = AveragePool<kernel_shape=[3,3], auto_pad="SAME_LOWER", strides=[2,2]>(x)',
            {}),
        (7, IMAGE, "a = Upsample<scales=[1.0,1.0,2.0,1.5]>(x)", {}),
        (7, IMAGE, 'a = Upsample<mode="linear", scales=[1.0,1.0,2.0,3.0]>(x)', {}),
        (9, IMAGE, 'a = Upsample<mode="linear">(x, scales)', SCALES),
        (10, IMAGE, "a = Resize(x, scales)", SCALES),
        (10, IMAGE, 'a = Resize<mode="linear">(x, scales)', SCALES),
        (10, IMAGE, "a = Resize(x, scales)", {"scales": np.array([1, 1, 0.5, 0.7], np.float32)}),
        (11, IMAGE, ('a = Resize<coordinate_transformation_mode="align_corners", mode="linear">'
                     "(x, none, scales)"), {**SCALES, "none": np.zeros(0, np.float32)}),
        (11, IMAGE, "a = Resize(x, none, none, sizes)",
            {"none": np.zeros(0, np.float32), "sizes": np.array([1, 4, 9, 8])}),
        (9, IMAGE, "a = Scatter<axis=3>(x, i, u)",
            {"i": np.zeros((1, 4, 6, 1), np.int64), "u": (1, 4, 6, 1)}),
        (7, IMAGE, "d = DepthToSpace<blocksize=2>(x) a = SpaceToDepth<blocksize=2>(d)", {}),
        (7, IMAGE, "f = Flatten(x) g = Gemm<transB=1>(f, k, l) a = Relu(g)",
            {"k": (3, 144), "l": (3,)}),
    ],
)  # fmt: skip
def test_it_computes_what_it_did(
    opset: int,
    given: str,
    node: str,
    constants: Mapping[str, tuple[int, ...] | Array],
    make_model: MakeModel,
    prove: Prove,
) -> None:
    text = f"""({given}, float[3,3] e) => (float y, float[3,3] last)
        {{ {node} y = Abs(a) last = MatMul(e, w) }}"""
    prepared = prove(make_model(text, {**constants, "w": (3, 3)}, opset))
    assert prepared.opset == 13


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_a_file_that_is_new_enough_keeps_its_opset(
    opset: int, make_model: MakeModel, prove: Prove
) -> None:
    model = make_model(
        "(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)}, opset
    )
    assert prove(model).opset == opset


def test_subgraphs_are_raised_too(make_model: MakeModel, prove: Prove) -> None:
    text = """(float[N,5,4] x, bool t) => (float[N,5,4] y) {
        c = MatMul(x, w)
        y = If(t) <
            then_branch = yes () => (float[N,5,4] p) { q = Softmax(c) p = Clip<min=0.1>(q) },
            else_branch = no () => (float[N,5,4] p)
                { u = Unsqueeze<axes=[0]>(c) k = Constant<value = float {2.0}>() s = Mul(u, k)
                  p = Squeeze<axes=[0]>(s) }
        >
    }"""
    prepared = prove(make_model(text, {"w": (4, 4)}, opset=9))
    branch = prepared.model.graph.node[-1].attribute[0].g
    assert "Softmax" in [node.op_type for node in branch.node]


def test_constant_nodes_and_large_weights_stay_out_of_the_converter(
    make_model: MakeModel, prove: Prove
) -> None:
    text = """(float[N,64] x) => (float[N,2] y) {
        r = Constant<value = float[2] {0.5, 0.25}>() g = Gemm<transB=1>(x, w, b)
        c = Clip<min=0.0>(g) m = MatMul(c, v) y = Mul(m, r) }"""
    prepared = prove(make_model(text, {"w": (64, 64), "b": (64,), "v": (64, 2)}, opset=8))
    assert [node.op_type for node in prepared.model.graph.node] == ["Gemm", "Clip", "MatMul"]
    assert prepared.model.graph.node[0].input[:] == ["x", "w", "b"]


@pytest.mark.parametrize(
    ("opset", "text", "line"),
    [
        (6, "y = MatMul(x, w)", "this network is of opset 6, and 7 is the oldest"),
        (7, "a = MatMul(x, w) y = BatchNormalization<spatial=0>(a, b, b, b, b)",
            ("the network is of opset 7, and node 'y' (BatchNormalization) cannot be raised to the "
             "13 that quantizers need: export it again with opset 13 or higher")),
        (10, "a = MatMul(x, w) y = Resize(a, s)", "the network is of opset 10, and node 'y' (Resi"),
        (99, "y = MatMul(x, w)", "this network is of opset 99, and onnx "),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_named(
    opset: int, text: str, line: str, make_model: MakeModel
) -> None:
    model = make_model(
        f"(float[4,4] x, float[2] s) => (float[4,4] y) {{ {text} }}",
        {"w": (4, 4), "b": (4,)},
        opset,
    )
    with pytest.raises(BadInputError) as caught:
        prepare(model)
    assert str(caught.value).startswith(line)
