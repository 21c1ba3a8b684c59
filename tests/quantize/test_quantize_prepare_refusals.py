"""What cannot be quantized is refused in one line that says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.core.errors import BadInputError
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from tests.quantize.conftest import MakeModel, Weights

SCALE: Weights = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}


def refusal(make_model: MakeModel, text: str, half: bool = False) -> str:
    weights: Weights = {"w": np.ones((4, 4), np.float16 if half else np.float32), **SCALE}
    with pytest.raises(BadInputError) as caught:
        prepare(make_model(text, weights, opset=17))
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w)",
            "node 'q' is QuantizeLinear"),
        ("q, a, b = DynamicQuantizeLinear(x) i = MatMulInteger(q, q) y = Cast<to=1>(i)",
            "node 'q' is DynamicQuantizeLinear"),
        ("y = com.microsoft.QGemm(x, w)", "node 'y' is QGemm"),
        ("y = com.microsoft.MatMulNBits(x, w)", "node 'y' is MatMulNBits"),
    ],
)  # fmt: skip
def test_a_quantized_network(nodes: str, named: str, make_model: MakeModel) -> None:
    line = refusal(make_model, f"(float[4,4] x) => (float[4,4] y) {{ {nodes} }}")
    assert line == (
        f"this network is quantized already: {named}; give the float network that it was made from"
    )


def test_a_network_that_is_quantized_in_a_branch(make_model: MakeModel) -> None:
    line = refusal(make_model, """(float[4,4] x, bool t) => (float[4,4] y) { a = MatMul(x, w)
        y = If(t) < then_branch = yes () => (float[4,4] p) { p = Relu(a) },
                    else_branch = no () => (float[4,4] p) { q = QuantizeLinear(a, s, z)
                        p = DequantizeLinear(q, s, z) } > }""")  # fmt: skip
    assert "node 'q' is QuantizeLinear" in line


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_a_network_of_half_precision(kind: str, make_model: MakeModel) -> None:
    text = f"({kind}[4,4] x, {kind}[4,4] v) => ({kind}[4,4] y) {{ y = MatMul(x, v) }}"
    assert refusal(make_model, text) == (
        f"node 'y' (MatMul) computes in {kind}: give the float32 network that this one was made "
        "from"
    )


def test_a_network_that_turns_to_half_precision_inside(make_model: MakeModel) -> None:
    text = """(float[4,4] x) => (float[4,4] y)
        { h = Cast<to=10>(x) c = MatMul(h, w) y = Cast<to=1>(c) }"""
    assert "node 'c' (MatMul) computes in float16" in refusal(make_model, text, half=True)


@pytest.mark.parametrize(
    "text",
    [
        "(float[4,4] x) => (float[4,4] y) { y = Relu(x) }",
        "(double[4,4] x, double[4,4] v) => (double[4,4] y) { y = MatMul(x, v) }",
        "(int32[4,4] x, int32[4,4] v) => (int32[4,4] y) { y = MatMul(x, v) }",
        "(float[4,4] x) => (float[4,4] y) { y = my.own.Conv(x, w) }",
    ],
)
def test_a_network_without_anything_to_quantize(text: str, make_model: MakeModel) -> None:
    assert refusal(make_model, text) == (
        "there is nothing to quantize: no Conv, ConvTranspose, Gemm or MatMul in float32 (what "
        "lies within If, Loop and Scan stays as it is)"
    )


def test_a_network_of_foreign_operators_only(make_model: MakeModel) -> None:
    model = make_model("(float[4] x) => (float[4] y) { y = my.own.Thing(x) }", {})
    del model.opset_import[0]
    with pytest.raises(BadInputError, match=r"^this network imports none of ONNX's own operators"):
        prepare(model)
