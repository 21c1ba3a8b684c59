"""MACs of single operators, against formulas worked out by hand."""

from __future__ import annotations

import pytest

from deploykit.bench.macs import Attributes, Shape, macs_of

MICROSOFT = "com.microsoft"
SCALAR: Shape = ()


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "macs"),
    [
        # 2 x 16 outputs of 6x6, each 3 channels x 3x3.
        ("Conv", [(2, 3, 8, 8), (16, 3, 3, 3)], (2, 16, 6, 6), {}, 2 * 16 * 36 * 27),
        # A depthwise 1-D convolution: one channel a group.
        ("Conv", [(1, 4, 10), (4, 1, 5)], (1, 4, 6), {"group": 4}, 4 * 6 * 5),
        ("ConvInteger", [(1, 3, 8, 8), (4, 3, 1, 1)], (1, 4, 8, 8), {}, 4 * 64 * 3),
        (
            "QLinearConv",
            [(1, 3, 8, 8), SCALAR, SCALAR, (4, 3, 3, 3), SCALAR, SCALAR, SCALAR, SCALAR],
            (1, 4, 6, 6), {}, 4 * 36 * 27,
        ),
        # Each of 1x8x4x4 inputs goes to 5 channels x 2x2.
        ("ConvTranspose", [(1, 8, 4, 4), (8, 5, 2, 2)], (1, 5, 8, 8), {}, 8 * 16 * 20),
        ("Gemm", [(7, 4), (4, 5)], (7, 5), {}, 7 * 4 * 5),
        ("Gemm", [(4, 7), (5, 4)], (7, 5), {"transA": 1, "transB": 1}, 7 * 4 * 5),
        ("MatMul", [(2, 3, 4, 5), (5, 6)], (2, 3, 4, 6), {}, 2 * 3 * 4 * 5 * 6),
        ("MatMul", [(5,), (5,)], SCALAR, {}, 5),
        ("MatMulInteger", [(2, 5), (5, 6)], (2, 6), {}, 60),
        (
            "QLinearMatMul",
            [(2, 5), SCALAR, SCALAR, (5, 6), SCALAR, SCALAR, SCALAR, SCALAR],
            (2, 6), {}, 60,
        ),
        # 9 steps x 2 samples, 2 directions, 4 gates of 8: input 3 and hidden 8.
        ("LSTM", [(9, 2, 3), (2, 32, 3), (2, 32, 8)], (9, 2, 2, 8), {}, 18 * 2 * 32 * 11),
        ("GRU", [(9, 2, 3), (1, 24, 3), (1, 24, 8)], (9, 1, 2, 8), {}, 18 * 24 * 11),
        ("RNN", [(9, 2, 3), (1, 8, 3), (1, 8, 8)], (9, 1, 2, 8), {}, 18 * 8 * 11),
        ("Einsum", [(2, 3, 4), (2, 5, 4)], (2, 3, 5), {"equation": "bij, bkj -> bik"}, 120),
        # 2 samples, 3 heads, 5 queries, 7 keys: 4 for the scores, 6 for the values.
        ("Attention", [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)], (2, 3, 5, 6), {}, 6 * 35 * 10),
        (
            "Attention", [(2, 5, 12), (2, 7, 4), (2, 7, 6)], (2, 5, 18),
            {"q_num_heads": 3, "kv_num_heads": 1}, 2 * 3 * 35 * 10,
        ),
        ("Relu", [(2, 3)], (2, 3), {}, 0),
        ("Resize", [(1, 3, 8, 8), None], None, {}, 0),
    ],
)  # fmt: skip
def test_standard_operators(
    op: str, inputs: list[Shape | None], output: Shape | None, attributes: Attributes, macs: int
) -> None:
    assert macs_of(op, "", inputs, [output], attributes) == macs
    assert macs_of(op, "ai.onnx", inputs, [output], attributes) == macs


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "macs"),
    [
        ("FusedConv", [(1, 3, 8, 8), (4, 3, 3, 3)], (1, 4, 6, 6), {}, 4 * 36 * 27),
        ("FusedMatMul", [(2, 5, 4), (2, 5, 6)], (2, 4, 6), {"transA": 1}, 240),
        ("MatMulNBits", [(2, 3, 64), (8, 2, 16)], (2, 3, 8), {"K": 64, "N": 8}, 6 * 64 * 8),
        ("MultiHeadAttention", [(2, 5, 12), (2, 7, 12), (2, 7, 6)], (2, 5, 6), {}, 2 * 35 * 18),
        # Projection of 8 to three times 6, then two products of 5 x 5 x 6.
        ("Attention", [(2, 5, 8), (8, 18)], (2, 5, 6), {}, 2 * 5 * (8 * 18 + 2 * 5 * 6)),
        ("QuickGelu", [(2, 3)], (2, 3), {}, 0),
    ],
)
def test_operators_of_onnx_runtime(
    op: str, inputs: list[Shape | None], output: Shape, attributes: Attributes, macs: int
) -> None:
    assert macs_of(op, MICROSOFT, inputs, [output], attributes) == macs


@pytest.mark.parametrize(
    ("op", "domain", "inputs", "output", "attributes"),
    [
        ("Magic", "acme", [(1, 2)], (1, 2), {}),
        ("Magic", MICROSOFT, [(1, 2)], (1, 2), {}),
        ("STFT", "", [(1, 2)], (1, 2), {}),
        ("Conv", "", [(1, 3, 8, 8), None], (1, 4, 6, 6), {}),
        ("Conv", "", [(1, 3, 8, 8), (4, 3, 3, 3)], (1, 4, None, 6), {}),
        ("Conv", "", [(1, 3, 8, 8), (4, 3, 3, 3)], None, {}),
        ("Conv", "", [(1, 3, 8, 8)], (1, 4, 6, 6), {}),
        ("Gemm", "", [(3,), (3, 4)], (4,), {}),
        ("Einsum", "", [(2, 3), (3, 4)], (2, 4), {"equation": "...j,jk->...k"}),
        ("Einsum", "", [(2, 3), (3, 4), (4, 5)], (2, 5), {"equation": "ij,jk,kl->il"}),
        ("Einsum", "", [(3, 3), (3, 4)], (4,), {"equation": "ii,ik->k"}),
        ("Attention", "", [(2, 5, 12), (2, 7, 4), (2, 7, 6)], (2, 5, 18), {}),
        ("Attention", MICROSOFT, [(2, 5), (8, 18)], (2, 5, 6), {}),
    ],
)
def test_what_cannot_be_told_is_none(
    op: str, domain: str, inputs: list[Shape | None], output: Shape | None, attributes: Attributes
) -> None:
    assert macs_of(op, domain, inputs, [output], attributes) is None
