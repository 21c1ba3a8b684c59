"""Reductions: what is summed away is gone from the result; what it was made of may matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.trace import Value, zero_in_sum
from deploykit.compress.prune.structure import Exactness

if TYPE_CHECKING:
    from deploykit.compress.prune.analysis.labels import Axis
    from deploykit.compress.prune.analysis.rules.call import Call, Result

_SUMS = ("sum", "linalg_vector_norm", "norm", "nansum")
_MEANS = ("mean", "var", "std", "var_mean", "std_mean", "nanmean")
_EXTREMES = ("amax", "amin", "max", "min", "logsumexp", "prod", "any", "all", "median")
_ORDERED = ("softmax", "log_softmax", "_softmax", "cumsum", "cumprod", "sort", "topk", "argmax",
            "argmin", "argsort", "softmin", "msort", "kthvalue", "mode")  # fmt: skip
_CHOOSING = frozenset({"max", "min", "median"})


def _reduce(call: Call) -> Result:
    shapes = call.shapes if call.shapes and isinstance(call.shapes[0], tuple) else None
    value = call.inputs[0]
    if call.name in {"max", "min"} and call.maybe("other") is not None:
        axes = call.trace.broadcast(call.inputs, call.shape)
        return Value(call.shape, axes, zero=zero_in_sum(call.inputs, axes))
    if call.name in _CHOOSING and _position_used(call):
        return _ordered(call)
    dims = _dims(call, len(value.shape))
    for dim in dims:
        _doubt(call, value, value.axes[dim])
    keep = call.arg("keepdim")
    axes = tuple(
        () if dim in dims else axis
        for dim, axis in enumerate(value.axes)
        if keep or dim not in dims
    )
    zero = value.zero and call.name != "logsumexp"
    if shapes is None:
        return Value(call.shape, axes, zero=zero, static=value.static)
    return tuple(Value(shape, axes, zero=zero, static=value.static) for shape in shapes)


def _position_used(call: Call) -> bool:
    """Whether anybody asks where the largest is: places have other numbers after a cut."""
    return any(user.args[1] == 1 for user in call.node.users if len(user.args) == 2)


def _dims(call: Call, rank: int) -> frozenset[int]:
    given = call.arg("dim")
    if given is None or given == []:
        return frozenset(range(rank))
    return frozenset(dim % rank for dim in ([given] if isinstance(given, int) else given))


def _doubt(call: Call, value: Value, axis: Axis) -> None:
    if call.name in _SUMS:
        if not value.zero:
            call.trace.doubt(axis, Exactness.APPROXIMATE, "a sum over channels that are not zero")
    elif call.name in _MEANS:
        call.trace.doubt(
            axis, Exactness.RENORMALISED, "a mean over all channels sees the kept ones only"
        )
    else:
        why = f"{call.name} over all channels sees the kept ones only"
        call.trace.doubt(axis, Exactness.APPROXIMATE, why)


def _ordered(call: Call) -> Result:
    """What depends on every element along a dimension: none of them may go."""
    value = call.inputs[0]
    given = call.arg("dim")
    if given is None and call.name in {"argmax", "argmin"}:
        for axis in value.axes:
            call.trace.lock(axis, f"{call.name} runs over it")
        return Value(call.shape, ((),) * len(call.shape))
    dim = (-1 if given is None else given) % len(value.shape)
    call.trace.lock(value.axes[dim], f"{call.name} runs over it")
    axes = tuple(() if place == dim else axis for place, axis in enumerate(value.axes))
    if call.shapes and isinstance(call.shapes[0], tuple):
        return tuple(_fitting(shape, axes, dim) for shape in call.shapes)
    return _fitting(call.shape, axes, dim)


def _fitting(shape: tuple[int, ...], axes: tuple[Axis, ...], dim: int) -> Value:
    if len(shape) < len(axes):
        axes = (*axes[:dim], *axes[dim + 1 :])
    return Value(shape, axes, zero=False)


def _glu(call: Call) -> Value:
    """Halves meet: a · sigmoid(b) (Dauphin et al., ICML 2017, eq. 1)."""
    value = call.value("self")
    dim = call.arg("dim") % len(value.shape)
    half = value.shape[dim] // 2
    axes = list(value.axes)
    first = tuple(column[:half] for column in axes[dim])
    second = tuple(column[half:] for column in axes[dim])
    axes[dim] = call.trace.unite(first, second)
    return Value(call.shape, tuple(axes), zero=value.zero)


RULES = {
    **dict.fromkeys((*_SUMS, *_MEANS, *_EXTREMES), Rule(_reduce)),
    **dict.fromkeys(_ORDERED, Rule(_ordered)),
    "glu": Rule(_glu),
}
