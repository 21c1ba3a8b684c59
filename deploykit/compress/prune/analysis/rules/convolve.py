"""Convolutions of any rank: plain, grouped, depthwise, transposed, with static or made weights.

A grouped convolution can lose the same channels inside every group, or whole groups. The finer of
the two is tried first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.trace import Choice, Value
from deploykit.compress.prune.structure import Exactness, Role

if TYPE_CHECKING:
    from deploykit.compress.prune.analysis.edit import Edit
    from deploykit.compress.prune.analysis.labels import Axis, Column
    from deploykit.compress.prune.analysis.rules.call import Call
    from deploykit.compress.prune.analysis.trace import Trace

INSIDE, WHOLE = 0, 1
"""Choices: channels inside every group, or whole groups."""


def _convolve(call: Call) -> Value:
    value, weight, bias = call.value("input"), call.value("weight"), call.maybe("bias")
    transposed = "transpose" in call.name
    trace, groups = call.trace, call.arg("groups")
    rank = len(weight.shape) - 2
    channel = len(value.shape) - rank - 1
    if not isinstance(groups, int):  # one a sample: a weight made of each (StyleGAN 2, appendix B)
        size = call.shape[channel] if transposed else value.shape[channel]
        groups = size // weight.shape[1]
    for axis in weight.axes[2:]:
        trace.lock(axis, "is a kernel's extent")
    reads, writes = (1, 0) if not transposed else (0, 1)
    trace.role(weight, reads, Role.READS)
    # Whatever it is made of: a kernel for each sample writes channels as any other does.
    trace.role(replace(weight, static=True), writes, Role.WRITES)
    zero = weight.zero
    if groups == 1:
        joined = trace.unite(value.axes[channel], weight.axes[reads])
        if not value.zero and not weight.zero:
            trace.doubt(joined, Exactness.APPROXIMATE, "neither factor of a product becomes zero")
        out = weight.axes[writes]
    else:
        out, way = _grouped(call, value, channel, weight, groups)
        if way == WHOLE:  # no group reads another's channels
            zero = zero or value.zero
        elif not value.zero and not weight.zero:
            read = value.axes[channel]
            trace.doubt(read, Exactness.APPROXIMATE, "neither factor of a product becomes zero")
    if bias is not None:
        out = trace.unite(out, bias.axes[0])
    spatial = _spatial(call, value, weight, channel, transposed=transposed)
    axes = (*value.axes[:channel], out, *spatial)
    if any(value.axes[:channel]) or any(spatial):
        zero = zero and value.zero and bias is None
    return Value(call.shape, axes, zero=zero and (bias is None or bias.zero))


def _grouped(
    call: Call, value: Value, channel: int, weight: Value, groups: int
) -> tuple[Axis, int]:
    """Unite what a grouped convolution joins; its output channels, and the way they may go."""
    read, in_size, out_size = value.axes[channel], value.shape[channel], call.shape[channel]
    trace = call.trace
    first, second = weight.axes[0], weight.axes[1]
    read_column = _single(trace, read, in_size)
    if "transpose" in call.name:  # weight [in, out of a group, ..]
        read_column = _joined(trace, read_column, _single(trace, first, in_size))
        per_group = _single(trace, second, out_size // groups)
        out = trace.labels.fresh(out_size)
        inside_in, inside_out = None, per_group
    else:  # weight [out, in of a group, ..]
        out = _single(trace, first, out_size)
        inside_in, inside_out = _single(trace, second, in_size // groups), None
    ways = _ways(in_size // groups, out_size // groups, groups)
    if not isinstance(call.arg("groups"), int):
        ways = (INSIDE,)
    key = call.node.name

    def fits(way: int) -> bool:
        grids = (read_column.reshape(groups, -1), out.reshape(groups, -1))
        gone = [trace.gone(grid.ravel()).reshape(grid.shape) for grid in grids]
        across = 0 if way == INSIDE else 1
        return all(bool((g == g.take([0], across)).all()) for g in gone)

    way = trace.choose(key, ways, fits)
    for grid in (read_column.reshape(groups, -1), out.reshape(groups, -1)):
        if way == INSIDE:
            trace.labels.tie(grid.T)
        else:
            trace.labels.tie(grid)
    if way == WHOLE:
        trace.labels.unite(read_column.reshape(groups, -1)[:, 0], out.reshape(groups, -1)[:, 0])
        for small in (inside_in, inside_out):
            if small is not None and len(small) > 1:
                trace.lock((small,), "lies inside a group, and whole groups are cut")
    else:
        if inside_in is not None:
            trace.labels.unite(inside_in, read_column.reshape(groups, -1)[0])
        if inside_out is not None:
            trace.labels.unite(inside_out, out.reshape(groups, -1)[0])
    trace.chosen(Choice(key, way, np.concatenate((read_column, out)), ways))
    return (out,), way


def _ways(inside_in: int, inside_out: int, groups: int) -> tuple[int, ...]:
    if inside_in == 1 and inside_out == 1:
        return (WHOLE,)
    if min(inside_in, inside_out) > groups:
        return (INSIDE, WHOLE)
    return (WHOLE, INSIDE)


def _single(trace: Trace, axis: Axis, size: int) -> Column:
    """The one column of a dimension; fixed labels where it has none."""
    if len(axis) == 1:
        return axis[0]
    column = trace.labels.fresh(size)
    trace.lock((*axis, column), "two independent cuts meet in one dimension" if axis else
               "meets a dimension of fixed size")  # fmt: skip
    return column


def _joined(trace: Trace, one: Column, other: Column) -> Column:
    (column,) = trace.unite((one,), (other,))
    return column


def _spatial(
    call: Call, value: Value, weight: Value, channel: int, *, transposed: bool
) -> list[Axis]:
    """Positions; where channels lie there (ECA: Wang et al., CVPR 2020), they pass inexactly."""
    axes: list[Axis] = []
    for number, given in enumerate(value.axes[channel + 1 :]):
        axis, dim = given, channel + 1 + number
        pointwise = weight.shape[2 + number] == 1 and value.shape[dim] == call.shape[dim]
        if axis and not pointwise:
            if value.shape[dim] == call.shape[dim] and not transposed:
                why = "a convolution runs over channels"
                call.trace.doubt(axis, Exactness.APPROXIMATE, why)
            else:
                call.trace.lock(axis, "a convolution runs over it")
                axis = ()
        axes.append(axis)
    return axes


def _rewrite_groups(edit: Edit) -> None:
    groups = edit.arg("groups")
    if groups == 1 or not isinstance(groups, int):
        return
    value, weight = edit.value(edit.arg("input")), edit.value(edit.arg("weight"))
    channel = len(value.shape) - len(weight.shape) + 1
    edit.set("groups", edit.groups_left(value, channel, groups))


RULES = dict.fromkeys(
    ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    Rule(_convolve, _rewrite_groups),
)
