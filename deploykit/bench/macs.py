"""Multiply-accumulates of one ONNX node, by operator family.

One multiplication with its addition is one MAC. Biases, activations, normalisation, pooling and
resizing count as 0, as they do in `torch.utils.flop_counter`, whose FLOPs are two times these
MACs. An operator that is not in the tables and not part of the ONNX standard is unknown: `None`,
never a guess.

Source of the shapes: ONNX operator schemas (onnx.ai/onnx/operators), and ONNX Runtime's
`docs/ContribOperators.md` for the domain `com.microsoft`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int | None, ...]
"""Sizes of a tensor; `None` for a size that nobody knows."""

Attributes: TypeAlias = Mapping[str, int | float | str | tuple[int, ...]]
_Known: TypeAlias = tuple[int, ...]

STANDARD_DOMAINS = ("", "ai.onnx")
_MICROSOFT = "com.microsoft"


class _Call(NamedTuple):
    """What a formula sees: the shapes of the inputs that it asked for, and of the first output."""

    inputs: tuple[_Known, ...]
    output: _Known
    attributes: Attributes


_Formula: TypeAlias = Callable[[_Call], int | None]


def macs_of(
    op: str,
    domain: str,
    inputs: Sequence[Shape | None],
    outputs: Sequence[Shape | None],
    attributes: Attributes,
) -> int | None:
    """The MACs of one call of a node.

    Args:
        op: its operator.
        domain: of the operator; "" is the standard's.
        inputs: shapes, in order; `()` for an input that is left out.
        outputs: shapes, in order.
        attributes: numbers, strings and lists of integers by name.

    Returns:
        `None` where the operator or a shape is not known.
    """
    family = _STANDARD if domain in STANDARD_DOMAINS else _CONTRIBUTED.get(domain, {})
    rule = family.get(op)
    if rule is None:
        free = domain in STANDARD_DOMAINS or (domain == _MICROSOFT and op in _FREE)
        return 0 if free and op not in _UNTOLD else None
    formula, used = rule
    shapes = [_known(inputs[index]) if index < len(inputs) else None for index in used]
    output = _known(outputs[0]) if outputs else None
    known = tuple(shape for shape in shapes if shape is not None)
    if output is None or len(known) < len(shapes):
        return None
    try:
        return formula(_Call(known, output, attributes))
    except (IndexError, ValueError):  # a rank that the operator does not allow
        return None


def _known(shape: Shape | None) -> _Known | None:
    if shape is None:
        return None
    sizes = tuple(size for size in shape if size is not None)
    return sizes if len(sizes) == len(shape) else None


def _conv(call: _Call) -> int:
    """Each output element sums over the input channels of its group and the kernel: W[1:]."""
    return prod(call.output) * prod(call.inputs[1][1:])


def _conv_transpose(call: _Call) -> int:
    """Each input element is spread over the output channels of its group and the kernel: W[1:]."""
    return prod(call.inputs[0]) * prod(call.inputs[1][1:])


def _gemm(call: _Call) -> int:
    inner = call.inputs[0][0] if call.attributes.get("transA") else call.inputs[0][1]
    return prod(call.output) * inner


def _matmul(call: _Call) -> int:
    inner = call.inputs[0][-2] if call.attributes.get("transA") else call.inputs[0][-1]
    return prod(call.output) * inner


def _matmul_packed(call: _Call) -> int | None:
    """MatMulNBits: the weights are packed, so their size is in the attributes K and N."""
    inner, columns = call.attributes.get("K"), call.attributes.get("N")
    if not isinstance(inner, int) or not isinstance(columns, int):
        return None
    return prod(call.inputs[0][:-1]) * inner * columns


def _recurrent(call: _Call) -> int:
    """X [steps, batch, input], W [directions, gates * hidden, input], R [..., hidden].

    Every step of every sample multiplies by all of W and R; the layout of X does not matter.
    """
    return call.inputs[0][0] * call.inputs[0][1] * (prod(call.inputs[1]) + prod(call.inputs[2]))


def _einsum(call: _Call) -> int | None:
    """Two operands: the product of the sizes of all letters. No ellipsis, no repeated letter."""
    equation = call.attributes.get("equation")
    if not isinstance(equation, str):
        return None
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, call.inputs, strict=False):
        if not term.isalpha() or len(set(term)) != len(shape) or len(term) != len(shape):
            return None
        sizes.update(zip(term, shape, strict=True))
    return prod(sizes.values()) if len(terms) == len(call.inputs) else None


def _attention(call: _Call) -> int | None:
    """Q K^T and its product with V. Shapes [batch, heads, tokens, size] or [batch, tokens, all].

    With fewer heads in K and V than in Q (grouped queries), every query head still does its own
    products, so the sizes by head decide.
    """
    query, key, value = call.inputs[:3]
    if len(query) == 4:
        return prod(query[:3]) * key[2] * (query[3] + value[3])
    heads, heads_kv = call.attributes.get("q_num_heads"), call.attributes.get("kv_num_heads")
    if not isinstance(heads, int) or not isinstance(heads_kv, int):
        return None
    return prod(query[:2]) * key[1] * (query[2] + heads * (value[2] // heads_kv))


def _multi_head(call: _Call) -> int:
    """MultiHeadAttention of com.microsoft: Q, K and V [batch, tokens, all heads] are separate."""
    query, key, value = call.inputs[:3]
    return prod(query[:2]) * key[1] * (query[2] + value[2])


def _fused_attention(call: _Call) -> int:
    """Attention of com.microsoft: the projection to Q, K and V is part of it.

    X [batch, tokens, size], W [size, Q + K + V]; Q, K and V are equally wide here.
    """
    batch, tokens, size = call.inputs[0]
    return batch * tokens * (size * call.inputs[1][1] + 2 * tokens * (call.inputs[1][1] // 3))


# Operator -> formula, and which inputs it looks at.
_STANDARD: Mapping[str, tuple[_Formula, tuple[int, ...]]] = {
    "Conv": (_conv, (0, 1)),
    "ConvInteger": (_conv, (0, 1)),
    "QLinearConv": (_conv, (0, 3)),
    "DeformConv": (_conv, (0, 1)),
    "ConvTranspose": (_conv_transpose, (0, 1)),
    "Gemm": (_gemm, (0, 1)),
    "MatMul": (_matmul, (0, 1)),
    "MatMulInteger": (_matmul, (0, 1)),
    "QLinearMatMul": (_matmul, (0, 3)),
    "LSTM": (_recurrent, (0, 1, 2)),
    "GRU": (_recurrent, (0, 1, 2)),
    "RNN": (_recurrent, (0, 1, 2)),
    "Einsum": (_einsum, (0, 1)),
    "Attention": (_attention, (0, 1, 2)),
}
_CONTRIBUTED: Mapping[str, Mapping[str, tuple[_Formula, tuple[int, ...]]]] = {
    _MICROSOFT: {
        "FusedConv": (_conv, (0, 1)),
        "QLinearConv": (_conv, (0, 3)),
        "FusedGemm": (_gemm, (0, 1)),
        "QGemm": (_gemm, (0, 3)),
        "FusedMatMul": (_matmul, (0, 1)),
        "MatMulIntegerToFloat": (_matmul, (0, 1)),
        "DynamicQuantizeMatMul": (_matmul, (0, 1)),
        "MatMulNBits": (_matmul_packed, (0,)),
        "MultiHeadAttention": (_multi_head, (0, 1, 2)),
        "Attention": (_fused_attention, (0, 1)),
    }
}
# In the standard, they multiply and add, but how often depends on the algorithm.
_UNTOLD = frozenset({"DFT", "STFT", "Det", "MelWeightMatrix", "LinearAttention"})
# Of com.microsoft, as free as their like in the standard.
_FREE = frozenset({
    "BiasGelu", "BiasSoftmax", "DequantizeLinear", "DynamicQuantizeLinear", "FastGelu", "Gelu",
    "EmbedLayerNormalization", "NhwcMaxPool", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid",
    "QLinearSoftmax", "QuantizeLinear", "QuickGelu", "RotaryEmbedding",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
