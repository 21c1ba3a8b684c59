"""Operators that work element by element, with broadcasting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.rules import Rule
from deploykit.compress.prune.trace import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.compress.prune.rules.call import Call

_KEEP_ZERO = frozenset(
    {"relu", "relu6", "gelu", "silu", "mish", "tanh", "hardswish", "leaky_relu", "elu", "selu",
     "celu", "prelu", "rrelu", "softsign", "hardshrink", "softshrink", "neg", "abs", "sqrt",
     "square", "sin", "tan", "asin", "atan", "sinh", "erf", "expm1", "log1p", "sign", "round",
     "floor", "ceil", "trunc", "frac", "clone", "contiguous", "alias", "to", "_to_copy", "type_as",
     "detach", "detach_", "lift_fresh_copy", "lift_fresh", "dropout", "feature_dropout",
     "alpha_dropout", "native_dropout", "positive", "nan_to_num", "hardtanh", "clamp_max", "relu_",
     "_conj", "real", "fill", "zero", "zeros_like", "float", "double", "half", "bfloat16"}
)  # fmt: skip
"""f(0) = 0. (A hardtanh or clamp whose range leaves 0 out does not exist in networks we know.)"""
_PRODUCTS = frozenset({"mul", "multiply", "logical_and", "bitwise_and"})
_SUMS = frozenset({"add", "sub", "rsub", "maximum", "minimum", "lerp", "copy", "cat", "addcmul",
                   "addcdiv", "where"})  # fmt: skip
_OTHERS = (
    "sigmoid", "hardsigmoid", "exp", "exp2", "log", "log2", "log_sigmoid", "softplus", "rsqrt",
    "reciprocal", "cos", "acos", "cosh", "erfc", "div", "divide", "true_divide", "pow", "eq", "ne",
    "lt", "le", "gt", "ge", "logical_not", "logical_or", "bitwise_not", "bitwise_or", "remainder",
    "fmod", "floor_divide", "atan2", "clamp", "clamp_min", "threshold", "masked_fill", "where",
    "ones_like", "full_like", "empty_like", "isnan", "isinf", "hypot", "bernoulli", "rand_like",
    "randn_like", "polar", "complex",
)  # fmt: skip


def _pointwise(call: Call) -> Value:
    values = call.inputs
    axes = call.trace.broadcast(values, call.shape)
    return Value(
        call.shape,
        axes,
        zero=_zero(call, values),
        static=all(value.static for value in values),
    )


def _zero(call: Call, values: Sequence[Value]) -> bool:
    """Whether the result is zero where what goes in is."""
    name = call.name
    numbers = [a for a in (*call.node.args, *call.node.kwargs.values()) if isinstance(a, float)]
    if name in _KEEP_ZERO:
        return all(value.zero for value in values)
    if name in _PRODUCTS:
        return any(value.zero and any(value.axes) for value in values)
    if name in {"div", "divide", "true_divide"}:
        first = call.of(call.node.args[0])
        return first is not None and first.zero
    if name in {"pow", "masked_fill", "clamp", "clamp_min", "clamp_max"}:
        harmless = name == "pow" or name == "masked_fill" or all(n <= 0 for n in numbers)
        first = call.of(call.node.args[0])
        return harmless and name != "masked_fill" and first is not None and first.zero
    if name in _SUMS:
        whole = all(value.zero for value in values)
        return whole and not any(a for a in call.node.args if isinstance(a, int | float))
    return False


RULES = dict.fromkeys((*_KEEP_ZERO, *_PRODUCTS, *_SUMS, *_OTHERS), Rule(_pointwise))
ANY = Rule(_pointwise)
"""For whatever else torch tags as pointwise."""
