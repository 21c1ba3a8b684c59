"""Operators that work over positions and leave channels alone: pooling, resizing, patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.trace import Value

if TYPE_CHECKING:
    from deploykit.compress.prune.analysis.rules.call import Call, Result

_POOLS = tuple(
    f"{kind}_pool{rank}d" for rank in (1, 2, 3)
    for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp")
)  # fmt: skip
_POOLS_WITH_INDICES = tuple(f"{name}_with_indices" for name in _POOLS)
_RESIZES = tuple(
    f"upsample_{kind}" for kind in
    ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d",
     "nearest_exact1d", "nearest_exact2d", "nearest_exact3d")
)  # fmt: skip
_OTHERS = ("grid_sampler", "grid_sampler_2d", "reflection_pad1d", "reflection_pad2d",
           "replication_pad1d", "replication_pad2d", "_adaptive_avg_pool2d")  # fmt: skip

_FOURIER = tuple(f"fft_{kind}{rank}" for kind in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
                 for rank in ("", "2", "n"))  # fmt: skip


def _spatial(call: Call) -> Result:
    value = call.inputs[0]
    shapes = call.shapes if call.shapes and isinstance(call.shapes[0], tuple) else (call.shapes,)
    rank = next((int(c) for c in reversed(call.name) if c in "123"), 2)
    if "indices" in call.name:
        rank = next(int(c) for c in call.name if c in "123")
    lead = len(value.shape) - rank
    for axis in value.axes[lead:]:
        call.trace.lock(axis, f"{call.name} runs over it")
    axes = (*value.axes[:lead], *((),) * rank)
    made = tuple(Value(shape, axes, zero=value.zero, static=value.static) for shape in shapes)
    return made if call.shapes and isinstance(call.shapes[0], tuple) else made[0]


def _im2col(call: Call) -> Value:
    """[N, C, H, W] -> [N, C·k·k, L]: each channel k·k times."""
    value = call.value("self")
    for axis in value.axes[2:]:
        call.trace.lock(axis, "patches are taken of it")
    count = call.shape[1] // value.shape[1]
    channels = tuple(np.repeat(column, count) for column in value.axes[1])
    return Value(call.shape, (value.axes[0], channels, ()), zero=value.zero)


def _col2im(call: Call) -> Value:
    """[N, C·k·k, L] -> [N, C, H, W]: the indices of one channel's patch go together."""
    value, channels = call.value("self"), call.shape[1]
    call.trace.lock(value.axes[2], "patches lie along it")
    made = []
    for column in value.axes[1]:
        rows = column.reshape(channels, -1)
        call.trace.labels.tie(rows)
        made.append(rows[:, 0])
    return Value(call.shape, (value.axes[0], tuple(made), (), ()), zero=value.zero)


def _unfold(call: Call) -> Value:
    """Windows along one dimension, which become a new last one."""
    value = call.value("self")
    dim = call.arg("dimension") % len(value.shape)
    call.trace.lock(value.axes[dim], "windows are taken of it")
    axes = (*value.axes[:dim], (), *value.axes[dim + 1 :], ())
    return call.trace.move(value, call.shape, axes)


def _fourier(call: Call) -> Value:
    """Transforms over positions leave the other dimensions alone."""
    value = call.value("self")
    rank = len(value.shape)
    given = call.arg("dim")
    if given is None:
        given = range(rank)
    elif isinstance(given, int):
        given = [given]
    over = {dim % rank for dim in given}
    for dim in over:
        call.trace.lock(value.axes[dim], f"{call.name} runs over it")
    axes = tuple(() if dim in over else axis for dim, axis in enumerate(value.axes))
    return Value(call.shape, axes, zero=value.zero, static=value.static)


RULES = {
    **dict.fromkeys((*_POOLS, *_POOLS_WITH_INDICES, *_RESIZES, *_OTHERS), Rule(_spatial)),
    **dict.fromkeys(_FOURIER, Rule(_fourier)),
    "im2col": Rule(_im2col),
    "col2im": Rule(_col2im),
    "unfold": Rule(_unfold),
}
