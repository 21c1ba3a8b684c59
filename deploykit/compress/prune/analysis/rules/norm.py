"""Normalisation: by channel (batch norm), and over channels (layer, group, RMS norm)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.rules.convolve import INSIDE, WHOLE
from deploykit.compress.prune.analysis.trace import Choice, Value
from deploykit.compress.prune.structure import Exactness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.compress.prune.analysis.edit import Edit
    from deploykit.compress.prune.analysis.labels import Axis
    from deploykit.compress.prune.analysis.rules.call import Call

_WHY = "a norm over all channels sees the kept ones only"


def _batch_norm(call: Call) -> Value:
    value = call.value("input")
    axis = value.axes[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (scale := call.maybe(name)) is not None:
            axis = call.trace.unite(axis, scale.axes[0])
    if call.arg("training"):  # of a weight that is standardised (Qiao et al., 2019, section 3)
        for other in (value.axes[0], *value.axes[2:]):
            call.trace.doubt(other, Exactness.RENORMALISED, _WHY)
    axes = (value.axes[0], axis, *value.axes[2:])
    over = [dim for dim in range(len(axes)) if dim != 1] if call.arg("training") else []
    return Value(call.shape, axes, zero=_is_zero(call, axes, over), static=value.static)


def _is_zero(call: Call, axes: Sequence[Axis], over: Sequence[int]) -> bool:
    """Whether the result is zero at removed indices.

    It is where the norm runs over them: it sees the kept ones only, and gives no others. In
    dimension 1 it is where the scale is zero, and no shift undoes it (batch norm).
    """
    weight, bias = call.maybe("weight"), call.maybe("bias")
    scaled = weight is not None and weight.zero and (bias is None or bias.zero)
    left = {dim for dim, axis in enumerate(axes) if axis} - {dim % len(axes) for dim in over}
    return not left or (left == {1} and scaled)


def _layer_norm(call: Call) -> Value:
    value, shape = call.value("input"), call.arg("normalized_shape")
    axes = list(value.axes)
    count = len(shape)
    for back in range(1, count + 1):
        axis = axes[-back]
        for name in ("weight", "bias"):
            if (scale := call.maybe(name)) is not None:
                axis = call.trace.unite(axis, scale.axes[-back])
        call.trace.doubt(axis, Exactness.RENORMALISED, _WHY)
        axes[-back] = axis
    return Value(call.shape, tuple(axes), zero=_is_zero(call, axes, range(-count, 0)))


def _rewrite_layer_norm(edit: Edit) -> None:
    value, shape = edit.value(edit.arg("input")), list(edit.new_arg("normalized_shape"))
    for back in range(1, len(shape) + 1):
        if edit.shrinks(value, -back):
            shape[-back] = edit.count(value, -back)
    edit.set("normalized_shape", shape)


def _group_norm(call: Call) -> Value:
    value, groups = call.value("input"), call.arg("num_groups")
    trace, axis = call.trace, value.axes[1]
    for name in ("weight", "bias"):
        if (scale := call.maybe(name)) is not None:
            axis = trace.unite(axis, scale.axes[0])
    inside = value.shape[1] // groups
    if len(axis) == 1 and inside > 1:
        axis = _by_group(call, axis, groups)
    axes = (value.axes[0], axis, *value.axes[2:])
    return Value(call.shape, axes, zero=_is_zero(call, axes, [1]))


def _by_group(call: Call, axis: Axis, groups: int) -> Axis:
    """Whole groups may go, exactly; or the same channels of every group."""
    trace, (column,) = call.trace, axis
    rows = column.reshape(groups, -1)
    ways = (INSIDE, WHOLE) if rows.shape[1] > groups else (WHOLE, INSIDE)

    def fits(way: int) -> bool:
        gone = trace.gone(column).reshape(rows.shape)
        return bool((gone == gone.take([0], 0 if way == INSIDE else 1)).all())

    way = trace.choose(call.node.name, ways, fits)
    tied = rows.T if way == INSIDE else rows
    trace.labels.tie(tied)
    if way == INSIDE:
        trace.doubt(axis, Exactness.RENORMALISED, _WHY)
    if groups > 1:
        trace.chosen(Choice(call.node.name, way, column, ways))
    return axis


def _rewrite_group_norm(edit: Edit) -> None:
    value, groups = edit.value(edit.arg("input")), edit.arg("num_groups")
    if edit.shrinks(value, 1):
        edit.set("num_groups", edit.groups_left(value, 1, groups))


def _weight_norm(call: Call) -> Value:
    """Scale v / |v| to the length g, one a channel (Salimans & Kingma, 2016, eq. 2)."""
    value, length = call.value("v"), call.value("g")
    axes = list(value.axes)
    dim = call.arg("dim") % len(axes)
    joined = call.trace.unite(axes[dim], length.axes[dim])
    axes[dim] = joined
    return Value(call.shape, tuple(axes), zero=value.zero and length.zero, static=value.static)


def _local_response(call: Call) -> Value:
    value = call.inputs[0]
    call.trace.doubt(value.axes[1], Exactness.APPROXIMATE, "a norm runs over neighbouring channels")
    return call.trace.move(value, call.shape, value.axes)


RULES = {
    **dict.fromkeys(("batch_norm", "instance_norm"), Rule(_batch_norm)),
    **dict.fromkeys(("layer_norm", "rms_norm"), Rule(_layer_norm, _rewrite_layer_norm)),
    "group_norm": Rule(_group_norm, _rewrite_group_norm),
    "_weight_norm": Rule(_weight_norm),
    "local_response_norm": Rule(_local_response),
}
