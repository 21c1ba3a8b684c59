"""Products that sum over a dimension: linear layers and matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.rules import Rule
from deploykit.compress.prune.analysis.rules.call import Unruled
from deploykit.compress.prune.analysis.trace import Value, zero_in_product, zero_in_sum
from deploykit.compress.prune.structure import Exactness, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.compress.prune.analysis.labels import Axis
    from deploykit.compress.prune.analysis.rules.call import Call


def contract(call: Call, left: Value, one: int, right: Value, other: int) -> Axis:
    """Sum over dimension `one` of `left` times dimension `other` of `right`, and give its axis."""
    trace = call.trace
    trace.role(left, one, Role.READS)
    trace.role(right, other, Role.READS)
    axis = trace.unite(left.axes[one], right.axes[other])
    if not left.zero and not right.zero:
        trace.doubt(axis, Exactness.APPROXIMATE, "neither factor of a product becomes zero")
    return axis


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
    axes = (*value.axes[:-1], out) if len(weight.shape) > 1 else value.axes[:-1]
    zero = (not out or weight.zero) and (not any(value.axes[:-1]) or value.zero)
    if bias is not None:
        zero = zero and zero_in_sum([bias], axes)
    return Value(call.shape, axes, zero=zero, static=value.static and weight.static)


def _matmul(call: Call) -> Value:
    left, right = (call.of(arg) for arg in call.node.args[:2])
    if left is None or right is None:
        raise Unruled(call.name)
    return product(call, left, right)


def product(call: Call, left: Value, right: Value) -> Value:
    """`left @ right` by NumPy's rules: vectors, matrices, and batches of them."""
    trace = call.trace
    column = len(right.shape) == 1
    summed = contract(call, left, -1, right, -1 if column else -2)
    if len(left.shape) > 1:
        trace.role(left, -2, Role.WRITES)
    if not column:
        trace.role(right, -1, Role.WRITES)
    lead = call.shape[: len(call.shape) - (len(left.shape) > 1) - (not column)]
    batches = [
        Value(value.shape[:-2], value.axes[:-2], zero=value.zero)
        for value in (left, right)
        if len(value.shape) > 2
    ]
    axes = list(trace.broadcast(batches, lead))
    zero = zero_in_product(batches, axes)
    if not left.static and not right.static:
        trace.attends([summed, *left.axes[-2:-1], right.axes[-1]], axes)
    if len(left.shape) > 1:
        axes.append(left.axes[-2])
        zero = zero and (left.zero or not left.axes[-2])
    if not column:
        axes.append(right.axes[-1])
        zero = zero and (right.zero or not right.axes[-1])
    return Value(call.shape, tuple(axes), zero=zero, static=left.static and right.static)


def _addmm(call: Call) -> Value:
    names = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}
    left, right = (call.value(name) for name in names[call.name])
    result = product(call, left, right)
    added = call.value("self")
    axes = call.trace.broadcast([result, added], call.shape)
    zero = zero_in_sum([result, added], axes)
    return Value(call.shape, axes, zero=zero, static=result.static and added.static)


def _bilinear(call: Call) -> Value:
    """x1ᵀ·W·x2 + b, with W [out, in1, in2]."""
    left, right, weight = (call.value(name) for name in ("input1", "input2", "weight"))
    contract(call, left, -1, weight, 1)
    contract(call, right, -1, weight, 2)
    call.trace.role(weight, 0, Role.WRITES)
    out, bias = weight.axes[0], call.maybe("bias")
    if bias is not None:
        out = call.trace.unite(out, bias.axes[0])
    leads = [Value(v.shape[:-1], v.axes[:-1], zero=v.zero) for v in (left, right)]
    lead = call.trace.broadcast(leads, call.shape[:-1])
    zero = weight.zero and not any(lead) and (bias is None or bias.zero)
    return Value(call.shape, (*lead, out), zero=zero)


def _einsum(call: Call) -> Value:
    """Indices with one letter go together."""
    values = call.all("tensors")
    terms, result = spelled(call.arg("equation"), [len(value.shape) for value in values])
    letters: dict[str, Axis] = {}
    sizes: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, axis, size in zip(term, value.axes, value.shape, strict=True):
            if sizes.setdefault(letter, size) != size:  # 1 is spread
                call.trace.lock((*axis, *letters[letter]), "a single channel is spread over many")
                letters[letter], sizes[letter] = (), max(size, sizes[letter])
                continue
            known = letters.get(letter)
            letters[letter] = axis if known is None else call.trace.unite(known, axis)
    summed = [axis for letter, axis in letters.items() if letter not in result]
    for axis in summed:
        if not any(value.zero for value in values):
            call.trace.doubt(axis, Exactness.APPROXIMATE, "no factor of a product becomes zero")
    if not any(value.static for value in values):
        shared = [c for c in result if all(c in term for term in terms)]
        others = [axis for letter, axis in letters.items() if letter not in shared]
        call.trace.attends(others, [letters[letter] for letter in shared])
    for term, value in zip(terms, values, strict=True):
        for dim, letter in enumerate(term):
            call.trace.role(value, dim, Role.WRITES if letter in result else Role.READS)
    zero = all(
        any(value.zero and letter in term for term, value in zip(terms, values, strict=True))
        for letter in result
        if letters[letter]
    )
    return Value(call.shape, tuple(letters[letter] for letter in result), zero=zero)


def spelled(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Terms and result of an einsum with letters for "..." and for a result that is left out."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [chr(code) for code in range(0x3B1, 0x3C9)]  # Greek letters, which nobody writes
    more = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    most = max((n for n, term in zip(more, terms, strict=True) if "." in term), default=0)
    if not arrow:
        once = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
        result = ("..." if "." in left else "") + "".join(once)
    terms = [
        term.replace("...", "".join(spare[most - n : most]))
        for term, n in zip(terms, more, strict=True)
    ]
    return terms, result.replace("...", "".join(spare[:most]))


RULES = {
    "linear": Rule(_linear),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot"), Rule(_matmul)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), Rule(_addmm)),
    "bilinear": Rule(_bilinear),
    "einsum": Rule(_einsum),
}
