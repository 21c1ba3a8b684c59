"""Operators that work element by element, with broadcasting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.trace import Value, zero_in_product, zero_in_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.compress.prune.analysis.labels import Axis
    from deploykit.compress.prune.analysis.rules.call import Call

_KEEP_ZERO = frozenset(
    {"relu", "relu6", "gelu", "silu", "mish", "tanh", "hardswish", "leaky_relu", "elu", "selu",
     "celu", "rrelu", "softsign", "hardshrink", "softshrink", "neg", "abs", "sqrt", "square", "sin",
     "tan", "asin", "atan", "sinh", "erf", "expm1", "log1p", "sign", "sgn", "round", "floor",
     "ceil", "trunc", "frac", "clone", "contiguous", "alias", "to", "_to_copy", "type_as",
     "detach", "lift_fresh_copy", "lift_fresh", "dropout", "feature_dropout", "native_dropout",
     "positive", "nan_to_num", "_conj", "real", "float", "double", "half", "bfloat16"}
)  # fmt: skip
"""f(0) = 0."""
_PRODUCTS = frozenset({"mul", "multiply", "logical_and", "bitwise_and"})
_SUMMANDS = {
    **dict.fromkeys(("add", "sub", "subtract", "rsub", "maximum", "minimum", "where"),
                    ("self", "other")),
    "lerp": ("self", "end"),
    "addcmul": ("self", "tensor1", "tensor2"),
    "copy": ("src",),
}  # fmt: skip
"""What has to be zero for the result to be."""
_QUOTIENTS = frozenset({"div", "divide", "true_divide", "floor_divide"})
_RANGES = {"clamp": ("min", "max"), "clip": ("min", "max"), "clamp_min": ("min", ""),
           "clamp_max": ("", "max"), "hardtanh": ("min_val", "max_val")}  # fmt: skip
_ZEROS = frozenset({"zero", "zeros_like"})
_OTHERS = (
    "sigmoid", "hardsigmoid", "exp", "exp2", "log", "log2", "log10", "log_sigmoid", "softplus",
    "rsqrt", "reciprocal", "cos", "acos", "cosh", "erfc", "pow", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_not", "logical_or", "bitwise_not", "bitwise_or", "remainder", "fmod", "atan2",
    "addcdiv", "threshold", "masked_fill", "fill", "ones_like", "full_like",
    "empty_like", "isnan", "isinf", "hypot", "bernoulli", "rand_like", "randn_like", "polar",
    "complex", "alpha_dropout", "feature_alpha_dropout",
)  # fmt: skip


def _pointwise(call: Call) -> Value:
    values = call.inputs
    axes = call.trace.broadcast(values, call.shape)
    return Value(
        call.shape,
        axes,
        zero=_is_zero(call, axes),
        static=all(value.static for value in values),
    )


def _is_zero(call: Call, axes: tuple[Axis, ...]) -> bool:
    """Whether the result is zero at removed indices."""
    name = call.name.removesuffix("_")
    if name in _PRODUCTS:
        return zero_in_product(call.inputs, axes)
    if name in _SUMMANDS:
        return _only_zeros(call, _SUMMANDS[name], axes)
    if name in _ZEROS or name == "fill":
        return name in _ZEROS or bool(call.arg("value") == 0)
    source = call.of(call.node.args[0])
    return source is not None and zero_in_sum([source], axes) and _keeps_zero(call, name)


def _keeps_zero(call: Call, name: str) -> bool:
    """Whether f(0) = 0."""
    if name in _RANGES:
        low, high = (call.arg(end) if end else None for end in _RANGES[name])
        return _is_number(low, most=0) and _is_number(high, least=0)
    if name == "pow":
        return _is_number(call.arg("exponent"), least=1e-9)
    if name == "masked_fill":
        return _is_number(call.arg("value"), least=0, most=0)
    return name in _KEEP_ZERO or name in _QUOTIENTS


def _only_zeros(call: Call, names: Sequence[str], axes: tuple[Axis, ...]) -> bool:
    """Whether each of these arguments is zero at removed indices; a number is where it is 0."""
    given = [arg for name in names if (arg := call.arg(name)) is not None]
    tensors = [value for arg in given if (value := call.of(arg)) is not None]
    numbers = [arg for arg in given if call.of(arg) is None]
    return zero_in_sum(tensors, axes) and all(
        isinstance(number, int | float) and number == 0 for number in numbers
    )


def _is_number(bound: object, *, least: float | None = None, most: float | None = None) -> bool:
    """Whether a bound is absent, or a number that leaves 0 in the range."""
    if bound is None:
        return True
    if not isinstance(bound, int | float):
        return False
    return (least is None or bound >= least) and (most is None or bound <= most)


def _prelu(call: Call) -> Value:
    """One slope a channel (dimension 1), or one for all (He et al., ICCV 2015, section 2.1)."""
    value, slope = call.value("self"), call.value("weight")
    axes = list(value.axes)
    channel = min(1, len(axes) - 1)
    if slope.shape and slope.shape[0] == value.shape[channel] > 1:
        axes[channel] = call.trace.unite(axes[channel], slope.axes[0])
    return call.trace.move(value, call.shape, tuple(axes))


RULES = {
    **dict.fromkeys(
        (*_KEEP_ZERO, *_PRODUCTS, *_SUMMANDS, *_QUOTIENTS, *_RANGES, *_ZEROS, *_OTHERS),
        Rule(_pointwise),
    ),
    "prelu": Rule(_prelu),
}
ANY = Rule(_pointwise)
"""For whatever else torch tags as pointwise."""
