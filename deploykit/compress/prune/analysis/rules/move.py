"""Operators that bring whole dimensions elsewhere: permutations, joining, repeating."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.labels import NEVER
from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.rules.call import packet_name
from deploykit.compress.prune.analysis.trace import Value, zero_in_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.compress.prune.analysis.edit import Edit
    from deploykit.compress.prune.analysis.labels import Axis
    from deploykit.compress.prune.analysis.rules.call import Call


def _permuted(call: Call, order: Sequence[int]) -> Value:
    value = call.inputs[0]
    axes = tuple(value.axes[dim] for dim in order)
    return call.trace.move(value, call.shape, axes)


def _permute(call: Call) -> Value:
    rank = len(call.shape)
    return _permuted(call, [dim % rank for dim in call.arg("dims")])


def _transpose(call: Call) -> Value:
    rank = len(call.shape)
    order = list(range(rank))
    if call.name in {"t", "numpy_T", "mT"}:
        one, other = (rank - 2) % rank, (rank - 1) % rank
    else:
        names = ("axis0", "axis1") if call.name == "swapaxes" else ("dim0", "dim1")
        one, other = (call.arg(name) % rank for name in names)
    order[one], order[other] = order[other], order[one]
    return _permuted(call, order)


def _movedim(call: Call) -> Value:
    rank = len(call.shape)
    source = [dim % rank for dim in _tuple(call.arg("source"))]
    target = [dim % rank for dim in _tuple(call.arg("destination"))]
    rest = iter(dim for dim in range(rank) if dim not in source)
    placed = dict(zip(target, source, strict=True))
    return _permuted(call, [placed[dim] if dim in placed else next(rest) for dim in range(rank)])


def _tuple(value: int | Sequence[int]) -> Sequence[int]:
    return (value,) if isinstance(value, int) else value


def _flip(call: Call) -> Value:
    value = call.value("self")
    dims = {dim % len(value.shape) for dim in call.arg("dims")}
    axes = tuple(
        tuple(column[::-1] for column in axis) if dim in dims else axis
        for dim, axis in enumerate(value.axes)
    )
    return call.trace.move(value, call.shape, axes)


def _roll(call: Call) -> Value:
    """Rolling channels would need an index that the cut network does not have: they stay."""
    value = call.value("self")
    dims = [dim % len(value.shape) for dim in call.arg("dims")] or range(len(value.shape))
    axes = list(value.axes)
    for dim in dims:
        call.trace.lock(axes[dim], "is rolled")
        axes[dim] = ()
    return call.trace.move(value, call.shape, tuple(axes))


def _cat(call: Call) -> Value:
    values = [v for v in call.all("tensors") if v.shape != (0,)]
    dim = call.arg("dim") % len(call.shape)
    return joined(call, values, dim)


def joined(call: Call, values: Sequence[Value], dim: int) -> Value:
    """Tensors one behind the other along a dimension."""
    first = values[0]
    axes = list(first.axes)
    for other in values[1:]:
        for place, axis in enumerate(other.axes):
            if place != dim:
                axes[place] = call.trace.unite(axes[place], axis)
    most = max(len(value.axes[dim]) for value in values)
    parts = [_widened(value.axes[dim], value.shape[dim], most) for value in values]
    axes[dim] = tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Value(
        call.shape,
        tuple(axes),
        zero=all(value.zero or not any(value.axes) for value in values),
        static=all(value.static for value in values),
    )


def _widened(axis: Axis, size: int, count: int) -> Axis:
    """The axis with so many columns, filled up with indices that always stay."""
    missing = tuple(np.full(size, NEVER) for _ in range(count - len(axis)))
    return (*axis, *missing)


def _stack(call: Call) -> Value:
    values = call.all("tensors")
    dim = call.arg("dim") % len(call.shape)
    axes = list(values[0].axes)
    for other in values[1:]:
        axes = [call.trace.unite(a, b) for a, b in zip(axes, other.axes, strict=True)]
    axes.insert(dim, ())
    return Value(
        call.shape,
        tuple(axes),
        zero=all(value.zero for value in values),
        static=all(value.static for value in values),
    )


def _repeat(call: Call) -> Value:
    value, times = call.value("self"), call.arg("repeats" if call.name == "repeat" else "dims")
    more = len(call.shape) - len(value.shape)
    axes: list[Axis] = []
    zero = value.zero
    for dim, size in enumerate(call.shape):
        old = dim - more
        if old < 0 or (value.shape[old] == 1 and size != 1):
            if old >= 0:
                call.trace.lock(value.axes[old], "a single channel is spread over many")
            literal = isinstance(times[dim - len(call.shape)], int)
            axes.append(call.trace.fresh(size) if literal else ())
            zero = zero and not axes[-1]  # all copies are alike
        else:
            count = size // value.shape[old]
            axes.append(tuple(np.tile(column, count) for column in value.axes[old]))
    return replace(value, shape=call.shape, axes=tuple(axes), zero=zero)


def _rewrite_repeat(edit: Edit) -> None:
    name = "repeats" if packet_name(edit.node) == "repeat" else "dims"
    value, times = edit.value(edit.arg("self")), list(edit.new_arg(name))
    result = edit.result
    for back in range(1, len(result.shape) + 1):
        old = value.shape[-back] if back <= len(value.shape) else 1
        if old == 1 and isinstance(times[-back], int) and edit.shrinks(result, -back):
            times[-back] = edit.count(result, -back)
    edit.set(name, times)


def _repeat_interleave(call: Call) -> Value:
    value, times, dim = call.value("self"), call.arg("repeats"), call.arg("dim")
    if dim is None or not isinstance(times, int):
        for axis in value.axes:
            call.trace.lock(axis, "is repeated by numbers that the graph computes")
        return Value(call.shape, ((),) * len(call.shape), static=value.static)
    axes = list(value.axes)
    dim %= len(axes)
    axes[dim] = tuple(np.repeat(column, times) for column in axes[dim])
    return call.trace.move(value, call.shape, tuple(axes))


def _expand(call: Call) -> Value:
    """What is spread may be cut as whatever meets the copies is."""
    value = call.value("self")
    sizes, zero = call.arg("size"), value.zero
    more = len(call.shape) - len(value.shape)
    axes: list[Axis] = []
    for dim, size in enumerate(call.shape):
        old = dim - more
        if old >= 0 and value.shape[old] == size:
            axes.append(value.axes[old])
            continue
        if old >= 0:
            call.trace.lock(value.axes[old], "a single channel is spread over many")
        literal = sizes is None or isinstance(sizes[dim], int)
        axes.append(call.trace.fresh(size) if literal else ())
        zero = zero and not axes[-1]  # all copies are alike
    return replace(value, shape=call.shape, axes=tuple(axes), zero=zero)


def _rewrite_expand(edit: Edit) -> None:
    sizes = edit.new_arg("size")
    if sizes is None:
        return
    result, new = edit.result, list(sizes)
    for dim in range(len(new)):
        if isinstance(new[dim], int) and new[dim] != -1 and edit.shrinks(result, dim):
            new[dim] = edit.count(result, dim)
    edit.set("size", new)


def _expand_as(call: Call) -> Value:
    value, other = call.value("self"), call.value("other")
    expanded = _expand(call)
    more = len(call.shape) - len(value.shape)
    axes = []
    for dim, axis in enumerate(expanded.axes):
        spread = dim < more or value.shape[dim - more] != call.shape[dim]
        if spread and not axis and other.axes[dim]:
            axes.append(other.axes[dim])
        else:
            axes.append(call.trace.unite(axis, other.axes[dim]))
    return replace(expanded, axes=tuple(axes), zero=zero_in_sum([value], axes))


def _pass_first(call: Call) -> Value:
    value = call.inputs[0]
    return call.trace.move(value, call.shape, value.axes)


RULES = {
    **dict.fromkeys(("permute",), Rule(_permute)),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT"), Rule(_transpose)),
    **dict.fromkeys(("movedim", "moveaxis"), Rule(_movedim)),
    "flip": Rule(_flip),
    "roll": Rule(_roll),
    **dict.fromkeys(("cat", "concat", "concatenate"), Rule(_cat)),
    "stack": Rule(_stack),
    **dict.fromkeys(("repeat", "tile"), Rule(_repeat, _rewrite_repeat)),
    "repeat_interleave": Rule(_repeat_interleave),
    **dict.fromkeys(("expand", "broadcast_to"), Rule(_expand, _rewrite_expand)),
    "expand_as": Rule(_expand_as),
    "view_as_real": Rule(_pass_first),
}
