"""Pad before a convolution: gone where it adds zeros, and what is computed stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.quantize.conftest import MakeModel, Prove, Weights

IMAGES = "(float[N,4,6,6] x) => (float[A,B,C,D] y)"
PADS: Weights = {"p": np.array([0, 0, 1, 0, 0, 0, 2, 3]), "w": (5, 4, 3, 3)}


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize(
    "text",
    [
        "a = Pad(x, p) y = Conv(a, w)",
        "a = Pad(x, p, zero) y = Conv<pads=[1,1,0,0], strides=[2,2]>(a, w)",
        'a = Pad(x, p) y = Conv<auto_pad="VALID">(a, w)',
        "a = Pad(x, p) b = Conv(a, w) c = Conv(a, w) y = Add(b, c)",
    ],
)
def test_zeros_are_the_convolution_s_own(
    opset: int, text: str, make_model: MakeModel, prove: Prove
) -> None:
    zero: Weights = {"zero": np.array(0, np.float32)} if "zero" in text else {}
    prepared = prove(make_model(f"{IMAGES} {{ {text} }}", {**PADS, **zero}, opset))

    assert "Pad" not in {node.op_type for node in prepared.model.graph.node}


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("a = Pad(x, p, one) y = Conv(a, w)", {"one": np.array(1, np.float32)}),
        ('a = Pad<mode="edge">(x, p) y = Conv(a, w)', {}),
        ("a = Pad(x, p) y = Conv(a, w)", {"p": np.array([0, 0, -1, 0, 0, 0, 0, 0])}),
        ("a = Pad(x, p) y = Conv(a, w)", {"p": np.array([1, 0, 1, 0, 0, 0, 0, 0])}),
        ('a = Pad(x, p) y = Conv<auto_pad="SAME_UPPER">(a, w)', {}),
        ("a = Pad(x, p) b = Conv(a, w) c = Relu(a) d = Conv(c, w) y = Add(b, d)", {}),
        ("a = Pad(x, p) y = ConvTranspose(a, v)", {"v": (4, 5, 2, 2)}),
    ],
)
def test_what_stays(text: str, constants: Weights, make_model: MakeModel, prove: Prove) -> None:
    given: Weights = {**PADS, **constants}
    used: Weights = {
        name: value for name, value in given.items() if name in text.replace("Pad", "")
    }
    prepared = prove(make_model(f"{IMAGES} {{ {text} }}", used))

    assert "Pad" in {node.op_type for node in prepared.model.graph.node}
