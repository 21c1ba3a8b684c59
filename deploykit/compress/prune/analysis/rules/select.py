"""Operators that take a part: slices, splits, lookups, padding.

After the cut a part begins and ends elsewhere; where what is kept is no run any more, the part is
looked up by its indices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.rules.call import packet_name
from deploykit.compress.prune.analysis.trace import Value
from deploykit.compress.prune.graph.constants import is_written

if TYPE_CHECKING:
    from torch.fx import Node

    from deploykit.compress.prune.analysis.edit import Edit
    from deploykit.compress.prune.analysis.labels import Axis, Column
    from deploykit.compress.prune.analysis.rules.call import Call, Result

_END = 1 << 62


def _slice(call: Call) -> Value:
    value = call.value("self")
    dim = (call.arg("dim") or 0) % len(value.shape)
    axes = list(value.axes)
    if axes[dim]:
        part = _range(call, value.shape[dim])
        if part is None:
            call.trace.lock(axes[dim], "is sliced by sizes that the graph computes")
            axes[dim] = ()
        else:
            if part.step > 1 and is_written(call.node):
                _keep_stride(call, axes[dim], part.step)
            axes[dim] = tuple(column[part] for column in axes[dim])
    return call.trace.move(value, call.shape, tuple(axes))


def _keep_stride(call: Call, axis: Axis, step: int) -> None:
    """What is written through a slice has to stay a slice: what lies within a step goes as one."""
    for column in axis:
        whole = len(column) - len(column) % step
        call.trace.labels.tie(column[:whole].reshape(-1, step))
        call.trace.lock((column[whole:],), "is written to in steps")


def _range(call: Call | Edit, size: int) -> slice | None:
    """The part that a `slice` or `narrow` takes; `None` where that is computed."""
    start, end, step = call.arg("start"), call.arg("end"), call.arg("step")
    if (length := call.arg("length")) is not None:
        end = start + length if isinstance(start, int) and isinstance(length, int) else length
    found = (start or 0, _END if end is None else end, step or 1)
    if not all(isinstance(part, int) for part in found):
        return None
    return slice(*slice(*found).indices(size))


def _rewrite_slice(edit: Edit) -> None:
    value = edit.value(edit.arg("self"))
    dim = (edit.arg("dim") or 0) % len(value.shape)
    if not edit.shrinks(value, dim):
        return
    stays = edit.keeps(value, dim)
    part = _range(edit, len(stays))
    assert part is not None, "locked otherwise"
    rank = np.cumsum(stays) - 1
    taken = np.arange(len(stays))[part]
    _take(edit, dim, rank[taken[stays[taken]]])


def _take(edit: Edit, dim: int, indices: Column) -> None:
    """Let the node take these indices of its input."""
    import torch

    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    run = len(indices) > 0 and step > 0 and bool((np.diff(indices) == step).all())
    source = edit.node.args[0]
    if run:
        edit.node.target = torch.ops.aten.slice.Tensor
        edit.node.args = (source, dim, int(indices[0]), int(indices[-1]) + 1, step)
    else:
        edit.node.target = torch.ops.aten.index_select.default
        edit.node.args = (source, dim, edit.constant(torch.from_numpy(indices.copy())))
    edit.node.kwargs = {}


def _select(call: Call) -> Value:
    value, index = call.value("self"), call.arg("index")
    dim = call.arg("dim") % len(value.shape)
    for column in value.axes[dim]:
        picked = (column[[index]],) if isinstance(index, int) else (column,)
        call.trace.lock(picked, "is selected by its number")
    axes = (*value.axes[:dim], *value.axes[dim + 1 :])
    return call.trace.move(value, call.shape, axes)


def _rewrite_select(edit: Edit) -> None:
    value, index = edit.value(edit.arg("self")), edit.arg("index")
    dim = edit.arg("dim") % len(value.shape)
    if edit.shrinks(value, dim):
        stays = edit.keeps(value, dim)
        edit.set("index", int(stays[: index % len(stays)].sum()))


def _split(call: Call) -> Result:
    """`chunk`, `split`, `tensor_split`, `unbind` of sizes: the parts keep their labels."""
    value = call.inputs[0]
    dim = _split_dim(call, value)
    parts: list[Value] = []
    start = 0
    for shape in call.shapes:
        axes = list(value.axes)
        axes[dim] = tuple(column[start : start + shape[dim]] for column in axes[dim])
        start += shape[dim]
        parts.append(call.trace.move(value, shape, tuple(axes)))
    return tuple(parts)


def _split_dim(call: Call | Edit, value: Value) -> int:
    name = packet_name(call.node)
    if name in {"hsplit", "dsplit"}:
        return 2 if name == "dsplit" else min(1, len(value.shape) - 1)
    return int(call.arg("dim") or 0) % len(value.shape)


def _rewrite_split(edit: Edit) -> None:
    import torch

    value = edit.value(edit.old.all_input_nodes[0])
    dim = _split_dim(edit, value)
    if not edit.shrinks(value, dim):
        return
    results = edit.values[edit.old]
    assert isinstance(results, tuple), "a split gives several tensors"
    sizes = [edit.count(part, dim) for part in results if part is not None]
    edit.node.target = torch.ops.aten.split_with_sizes.default
    edit.node.args = (edit.node.args[0], sizes, dim)
    edit.node.kwargs = {}


def _unbind(call: Call) -> Result:
    value = call.value("self")
    dim = call.arg("dim") % len(value.shape)
    call.trace.lock(value.axes[dim], "is taken apart")
    axes = (*value.axes[:dim], *value.axes[dim + 1 :])
    return tuple(call.trace.move(value, shape, axes) for shape in call.shapes)


def _getitem(call: Call) -> Value | None:
    source, index = cast("tuple[Node, int]", call.node.args)
    several = call.values.get(source)
    return several[index] if isinstance(several, tuple) else None


def _index_select(call: Call) -> Value:
    value = call.value("self")
    dim = call.arg("dim") % len(value.shape)
    return _looked_up(call, value, {dim: call.arg("index")}, dim, 1)


def _index(call: Call) -> Value:
    """`x[:, i, j]`: dimensions with an index go, those of the indices come in their place."""
    value = call.value("self")
    indices = call.arg("indices")
    given = {dim: index for dim, index in enumerate(indices) if index is not None}
    first = min(given)
    together = sorted(given) == list(range(first, first + len(given)))
    width = len(call.shape) - (len(value.shape) - len(given))
    return _looked_up(call, value, given, first if together else 0, width)


def _looked_up(call: Call, value: Value, given: dict[int, Any], place: int, width: int) -> Value:
    """Replace the indexed dimensions by `width` new ones at `place`."""
    rest: list[Axis] = [axis for dim, axis in enumerate(value.axes) if dim not in given]
    made: list[Axis] = [()] * width
    for dim, index in given.items():
        axis = value.axes[dim]
        known = _known_index(call, index)
        if axis and known is not None and len(given) == 1 and known.ndim == 1:
            made = [tuple(column[known] for column in axis)]
        else:
            call.trace.lock(axis, "is looked up by indices")
        other = call.of(index)
        for other_axis in other.axes if other is not None else ():
            call.trace.lock(other_axis, "holds indices")
    axes = (*rest[:place], *made, *rest[place:])
    return Value(call.shape, axes, zero=value.zero, static=value.static)


def _known_index(call: Call, index: Any) -> Column | None:
    """The index itself where it is a constant of whole numbers."""
    tensor = call.trace.tensors.get(str(getattr(index, "target", None)))
    if index.op != "get_attr" or tensor is None or tensor.is_floating_point():
        return None
    found: Column = tensor.cpu().numpy()
    return np.flatnonzero(found) if found.dtype == bool else found.astype(np.int64)


def _rewrite_index(edit: Edit) -> None:
    value = edit.value(edit.arg("self"))
    if packet_name(edit.old) == "index_select":
        given = {edit.arg("dim") % len(value.shape): edit.arg("index")}
    else:
        indices = edit.arg("indices")
        given = {dim: index for dim, index in enumerate(indices) if index is not None}
    (dim, index), *others = given.items()
    if others or not edit.shrinks(value, dim):
        return
    stays = edit.keeps(value, dim)
    known = edit.tensors[index.target].cpu().numpy()
    known = np.flatnonzero(known) if known.dtype == bool else known % len(stays)
    rank = np.cumsum(stays) - 1
    _take(edit, dim, rank[known[stays[known]]])


def _pad(call: Call) -> Value:
    """New channels around the old ones: they hold no weights and go as what meets them."""
    value, amounts = call.value("self"), call.arg("pad")
    mode = call.arg("mode") or "constant"
    fill = call.arg("value") or 0
    rank = len(value.shape)
    axes = list(value.axes)
    for back in range(len(amounts) // 2):
        dim = rank - 1 - back
        before, after = amounts[2 * back : 2 * back + 2]
        if not axes[dim] or (before == 0 and after == 0):
            continue
        literal = isinstance(before, int) and isinstance(after, int)
        if mode != "constant" or not literal or min(before, after) < 0 or len(axes[dim]) > 1:
            call.trace.lock(axes[dim], "is padded")
            axes[dim] = ()
            continue
        ends = (call.trace.labels.fresh(before), call.trace.labels.fresh(after))
        axes[dim] = (np.concatenate((ends[0], axes[dim][0], ends[1])),)
    return replace(value, shape=call.shape, axes=tuple(axes), zero=value.zero and fill == 0)


def _rewrite_pad(edit: Edit) -> None:
    result, amounts = edit.result, list(edit.new_arg("pad"))
    rank = len(result.shape)
    for back in range(len(amounts) // 2):
        dim = rank - 1 - back
        before, after = amounts[2 * back : 2 * back + 2]
        if edit.shrinks(result, dim) and isinstance(before, int):
            stays = edit.keeps(result, dim)
            amounts[2 * back] = int(stays[:before].sum())
            amounts[2 * back + 1] = int(stays[len(stays) - after :].sum()) if after else 0
    edit.set("pad", amounts)


def _embedding(call: Call) -> Value:
    from deploykit.compress.prune.structure import Role

    weight, index = call.value("weight"), call.value("indices")
    call.trace.role(weight, 1, Role.WRITES)
    call.trace.lock(weight.axes[0], "is looked up by indices")
    return Value(call.shape, (*index.axes, weight.axes[1]), zero=weight.zero)


def _triangle(call: Call) -> Value:
    value = call.value("self")
    call.trace.lock((*value.axes[-1], *value.axes[-2]), "is a triangle")
    return call.trace.move(value, call.shape, (*value.axes[:-2], (), ()))


RULES = {
    **dict.fromkeys(("slice", "narrow"), Rule(_slice, _rewrite_slice)),
    "select": Rule(_select, _rewrite_select),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split",
                     "unsafe_chunk", "hsplit", "vsplit", "dsplit"), Rule(_split, _rewrite_split)),
    "unbind": Rule(_unbind),
    "getitem": Rule(_getitem),
    "index_select": Rule(_index_select, _rewrite_index),
    "index": Rule(_index, _rewrite_index),
    **dict.fromkeys(("pad", "constant_pad_nd"), Rule(_pad, _rewrite_pad)),
    "embedding": Rule(_embedding),
    **dict.fromkeys(("tril", "triu"), Rule(_triangle)),
}  # fmt: skip
