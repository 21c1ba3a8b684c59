"""Operators that make a tensor from nothing, or from the type of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.trace import Value

if TYPE_CHECKING:
    from deploykit.compress.prune.analysis.edit import Edit
    from deploykit.compress.prune.analysis.rules.call import Call

_UNIFORM = ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")


def _uniform(call: Call) -> Value:
    """The same number everywhere: it may be cut as whatever meets it is."""
    sizes = call.arg("size")
    axes = tuple(
        call.trace.fresh(size) if isinstance(given, int) else ()
        for size, given in zip(call.shape, sizes, strict=True)
    )
    return Value(call.shape, axes, zero="zeros" in call.name)


def _rewrite_size(edit: Edit) -> None:
    result, sizes = edit.result, list(edit.new_arg("size"))
    for dim, size in enumerate(sizes):
        if isinstance(size, int) and edit.shrinks(result, dim):
            sizes[dim] = edit.count(result, dim)
    edit.set("size", sizes)


def _ordered(call: Call) -> Value:
    """Numbers that differ by place: none may go."""
    return Value(call.shape, ((),) * len(call.shape))


RULES = {
    **dict.fromkeys(_UNIFORM, Rule(_uniform, _rewrite_size)),
    **dict.fromkeys(("arange", "linspace", "eye", "scalar_tensor", "one_hot"), Rule(_ordered)),
}
