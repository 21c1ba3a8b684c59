"""Fused attention: softmax(q·kᵀ·s + mask)·v, each [.., heads, positions, width]."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.rules.contract import contract
from deploykit.compress.prune.analysis.trace import Value

if TYPE_CHECKING:
    from deploykit.compress.prune.analysis.edit import Edit
    from deploykit.compress.prune.analysis.rules.call import Call


def _attention(call: Call) -> Value:
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    mask = call.maybe("attn_mask")
    trace = call.trace
    summed = contract(call, query, -1, key, -1)
    positions = trace.unite(key.axes[-2], value.axes[-2])
    trace.lock(positions, "softmax runs over it")
    lead = call.shape[:-2]
    if call.arg("enable_gqa"):
        key, value = (_spread(part, query) for part in (key, value))
    leads = [Value(part.shape[:-2], part.axes[:-2]) for part in (query, key, value)]
    axes = trace.broadcast(leads, lead)
    trace.attends([summed, value.axes[-1]], axes)
    if mask is not None:
        scores = Value((*lead, query.shape[-2], key.shape[-2]), (*axes, query.axes[-2], ()))
        trace.broadcast([scores, mask], scores.shape)
    zero = value.zero and not query.axes[-2]
    return Value(call.shape, (*axes, query.axes[-2], value.axes[-1]), zero=zero)


def _spread(part: Value, query: Value) -> Value:
    """Heads of k or v once for each head of q that shares them (grouped queries)."""
    heads, shared = query.shape[-3], part.shape[-3]
    axis = tuple(np.repeat(column, heads // shared) for column in part.axes[-3])
    shape = (*part.shape[:-3], heads, *part.shape[-2:])
    return Value(shape, (*part.axes[:-3], axis, *part.axes[-2:]), zero=part.zero)


def _rewrite_scale(edit: Edit) -> None:
    """1/√width stays what it was, although the width is smaller."""
    query = edit.value(edit.arg("query"))
    if edit.arg("scale") is None and edit.shrinks(query, -1):
        edit.set("scale", 1 / sqrt(query.shape[-1]))


RULES = {"scaled_dot_product_attention": Rule(_attention, _rewrite_scale)}
