"""Views: reshape and its kin. The work is in `views.py`; here are the calls and their literals."""

from __future__ import annotations

import operator
from math import gcd
from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.rules.call import packet_name
from deploykit.compress.prune.analysis.views import reshape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.fx import Node

    from deploykit.compress.prune.analysis.edit import Edit
    from deploykit.compress.prune.analysis.rules.call import Call
    from deploykit.compress.prune.analysis.trace import Value

_SIZES = {"unflatten": "sizes", "_unsafe_view": "size", "view": "size", "reshape": "shape"}


def _reshape(call: Call) -> Value:
    value = call.inputs[0]
    return reshape(call.trace, value, call.shape, call.node.name)


def _rewrite_squeeze(edit: Edit) -> None:
    """Name the dimensions that go: what has one channel left must not go with them."""
    import torch

    value = edit.value(edit.arg("self"))
    given = edit.arg("dim")
    dims = range(len(value.shape)) if given is None else _tuple(given)
    if any(edit.shrinks(value, dim) for dim in dims):
        rank = len(value.shape)
        single = [dim % rank for dim in dims if value.shape[dim] == 1]
        edit.node.target = torch.ops.aten.squeeze.dims
        edit.node.args, edit.node.kwargs = (edit.node.args[0], single), {}


def _tuple(value: int | Sequence[int]) -> Sequence[int]:
    return (value,) if isinstance(value, int) else value


def _rewrite_sizes(edit: Edit) -> None:
    name = _SIZES[packet_name(edit.node)]
    result, sizes = edit.result, list(edit.new_arg(name))
    first = edit.arg("dim") % len(edit.value(edit.arg("self")).shape) if name == "sizes" else 0
    for place, size in enumerate(sizes):
        dim = first + place
        if size == -1 or not edit.shrinks(result, dim):
            continue
        if isinstance(size, int):
            sizes[place] = edit.count(result, dim)
        elif -1 in sizes:
            sizes[place] = _share(edit, size, edit.count(result, dim), result.shape[dim])
        else:  # a size that the graph computes (batch times heads) is told by the rest
            sizes[place] = -1
    edit.set(name, sizes)


def _share(edit: Edit, size: Node, part: int, whole: int) -> Node:
    """`size · part / whole`, as calls in front of the node."""
    common = gcd(part, whole)
    with edit.node.graph.inserting_before(edit.node):
        times = edit.node.graph.call_function(operator.mul, (size, part // common))
        return edit.node.graph.call_function(operator.floordiv, (times, whole // common))


def _pixel_shuffle(call: Call) -> Value:
    """[.., C·r·r, H, W] -> [.., C, H·r, W·r] (Shi et al., CVPR 2016, section 3.2)."""
    value, factor = call.value("self"), call.arg("upscale_factor")
    lead = value.shape[:-3]
    channels, high, wide = call.shape[-3:]
    trace, key = call.trace, call.node.name
    inner = (*lead, channels, factor, factor, high // factor, wide // factor)
    # Only whole output channels may go: r·r indices each.
    for column in value.axes[-3]:
        trace.labels.tie(column.reshape(channels, -1))
    split = reshape(trace, value, inner, key)
    axes = (*split.axes[: len(lead) + 1], (), ())
    return trace.move(value, call.shape, axes)


def _pixel_unshuffle(call: Call) -> Value:
    """[.., C, H·r, W·r] -> [.., C·r·r, H, W]."""
    value, factor = call.value("self"), call.arg("downscale_factor")
    call.trace.lock((*value.axes[-1], *value.axes[-2]), "is shuffled into channels")
    columns = tuple(column.repeat(factor * factor) for column in value.axes[-3])
    return call.trace.move(value, call.shape, (*value.axes[:-3], columns, (), ()))


def _channel_shuffle(call: Call) -> Value:
    """[N, G·c, ..] -> the c outermost (Zhang et al., CVPR 2018, section 3.1)."""
    value, groups = call.value("self"), call.arg("groups")
    lead, rest = value.shape[0], value.shape[2:]
    split = reshape(call.trace, value, (lead, groups, -(-value.shape[1] // groups), *rest),
                    call.node.name)  # fmt: skip
    axes = (split.axes[0], split.axes[2], split.axes[1], *split.axes[3:])
    shape = (lead, split.shape[2], groups, *rest)
    turned = call.trace.move(split, shape, axes)
    return reshape(call.trace, turned, call.shape, f"{call.node.name}/turned")


def _rewrite_shuffle(edit: Edit) -> None:
    """Whole groups may have gone, or the same channels of each."""
    value, groups = edit.value(edit.arg("self")), edit.arg("groups")
    if edit.shrinks(value, 1):
        edit.set("groups", edit.groups_left(value, 1, groups))


RULES = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "unflatten"),
                    Rule(_reshape, _rewrite_sizes)),
    **dict.fromkeys(("flatten", "reshape_as", "view_as", "ravel"), Rule(_reshape)),
    **dict.fromkeys(("unsqueeze", "atleast_1d", "atleast_2d"), Rule(_reshape)),
    "squeeze": Rule(_reshape, _rewrite_squeeze),
    "pixel_shuffle": Rule(_pixel_shuffle),
    "pixel_unshuffle": Rule(_pixel_unshuffle),
    "channel_shuffle": Rule(_channel_shuffle, _rewrite_shuffle),
}  # fmt: skip
