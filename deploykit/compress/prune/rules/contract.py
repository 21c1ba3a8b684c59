"""Products that sum over a dimension: linear layers and matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.rules import Rule
from deploykit.compress.prune.structure import Exactness, Role
from deploykit.compress.prune.trace import Value

if TYPE_CHECKING:
    from deploykit.compress.prune.labels import Axis
    from deploykit.compress.prune.rules.call import Call


def contract(call: Call, left: Value, one: int, right: Value, other: int) -> None:
    """Sum over dimension `one` of `left` times dimension `other` of `right`."""
    trace = call.trace
    trace.role(left, one, Role.READS)
    trace.role(right, other, Role.READS)
    axis = trace.unite(left.axes[one], right.axes[other])
    if not left.static and not right.static:
        trace.inner.extend(axis)
    if not left.zero and not right.zero:
        trace.doubt(axis, Exactness.APPROXIMATE, "neither factor of a product becomes zero")


def _linear(call: Call) -> Value:
    value, weight, bias = call.value("input"), call.value("weight"), call.maybe("bias")
    trace = call.trace
    contract(call, value, -1, weight, -1)
    out: Axis = ()
    if len(weight.shape) > 1:
        trace.role(weight, 0, Role.WRITES)
        out = weight.axes[0]
        if bias is not None:
            out = trace.unite(out, bias.axes[-1])
        return Value(call.shape, (*value.axes[:-1], out), static=value.static and weight.static)
    return Value(call.shape, value.axes[:-1])


def _matmul(call: Call) -> Value:
    first, second = call.inputs[:2]
    return product(call, first, second)


def product(call: Call, left: Value, right: Value) -> Value:
    """`left @ right` by NumPy's rules: vectors, matrices, and batches of them."""
    trace = call.trace
    column = len(right.shape) == 1
    contract(call, left, -1, right, -1 if column else -2)
    if len(left.shape) > 1:
        trace.role(left, -2, Role.WRITES)
    if not column:
        trace.role(right, -1, Role.WRITES)
    lead = call.shape[: len(call.shape) - (len(left.shape) > 1) - (not column)]
    batches = [
        Value(value.shape[:-2], value.axes[:-2])
        for value in (left, right)
        if len(value.shape) > 2
    ]
    axes = list(trace.broadcast(batches, lead))
    if len(left.shape) > 1:
        axes.append(left.axes[-2])
    if not column:
        axes.append(right.axes[-1])
    return Value(call.shape, tuple(axes), static=left.static and right.static)


def _addmm(call: Call) -> Value:
    names = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}
    left, right = (call.value(name) for name in names[call.name])
    result = product(call, left, right)
    added = call.value("self")
    axes = call.trace.broadcast([result, added], call.shape)
    return Value(call.shape, axes, zero=added.zero, static=result.static and added.static)


def _einsum(call: Call) -> Value:
    """Indices with one letter go together."""
    values = call.all("tensors")
    equation = call.arg("equation").replace(" ", "")
    terms, _, result = equation.partition("->")
    letters: dict[str, Axis] = {}
    if "." in equation or not result:
        for value in values:
            for axis in value.axes:
                call.trace.lock(axis, f"einsum {equation!r}")
        return Value(call.shape, ((),) * len(call.shape))
    for term, value in zip(terms.split(","), values, strict=True):
        for letter, axis in zip(term, value.axes, strict=True):
            known = letters.get(letter)
            letters[letter] = axis if known is None else call.trace.unite(known, axis)
    summed = [axis for letter, axis in letters.items() if letter not in result]
    for axis in summed:
        if sum(value.static for value in values) == 0:
            call.trace.inner.extend(axis)
        if not any(value.zero for value in values):
            call.trace.doubt(axis, Exactness.APPROXIMATE, "no factor of a product becomes zero")
    for term, value in zip(terms.split(","), values, strict=True):
        for dim, letter in enumerate(term):
            call.trace.role(value, dim, Role.WRITES if letter in result else Role.READS)
    return Value(call.shape, tuple(letters[letter] for letter in result))


RULES = {
    "linear": Rule(_linear),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), Rule(_matmul)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), Rule(_addmm)),
    "einsum": Rule(_einsum),
}
