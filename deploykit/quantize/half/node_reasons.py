"""Why one node cannot compute in 16 bits, seen by itself."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from deploykit.quantize.graph.values import attributes
from deploykit.quantize.half import rules

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.values import Graph
    from deploykit.quantize.half.formats import Format
    from deploykit.quantize.half.known import Known
    from deploykit.quantize.half.ports import Ports

_STASH_FLOAT = 1
_EPSILON = 1e-5  # what norms have that do not say
_INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 12, 13})  # onnx.TensorProto's whole numbers


def why_not(node: onnx.NodeProto, ports: Ports, known: Known) -> str:
    """The reason in a phrase; "" where the node may compute in 16 bits."""
    if not ports.there:
        return ""
    return (
        _by_kind(node, ports, known)
        or _by_constants(node, ports, known)
        or _by_norm(node, known)
        or _by_range(node, known)
    )


def _by_kind(node: onnx.NodeProto, ports: Ports, known: Known) -> str:
    name, form, target = node.op_type, known.form, known.target
    if node.domain != "":
        return f"it is a custom operator ({node.domain})"
    if name in rules.BODIES:
        return "what lies within it stays as it is"
    if name.startswith(rules.SEQUENCES):
        return "it works on sequences"
    if not ports.free:
        newer = " at this opset; export with --opset 22" if form.name == "bf16" else ""
        return f"ONNX has no {form.word} for it{newer}"
    if name in rules.NO_KERNEL.get((form.name, target), ()):
        return f"{target} has no {form.word} kernel for it"
    tables = (
        (rules.PLACES, "coordinates need more digits"),
        (rules.DRAWS, "the type that it makes is written in it"),
        (rules.LOGS, "it magnifies what is lost near zero"),
        (rules.SUMS - rules.CHECKED_SUMS, "its sum may overflow or lose what is added last"),
    )
    return next((why for table, why in tables if name in table), "")


def _by_constants(node: onnx.NodeProto, ports: Ports, known: Known) -> str:
    graph, form = known.graph, known.form
    for place, half in ports.reads.items():
        name = node.input[place]
        if not half or name not in graph.constants:
            continue
        harm = form.harm(graph.array(name))
        large = " reaches " in harm
        if harm and large and node.op_type in rules.BOUNDS:
            continue
        if harm and not large and rules.BIAS.get(node.op_type) == place:
            continue
        if harm:
            return harm
    return ""


def _by_norm(node: onnx.NodeProto, known: Known) -> str:
    """Norms: in which type they sum squares, and whether their epsilon is still there."""
    form = known.form
    settings = attributes(node)
    stash = settings.get("stash_type", _STASH_FLOAT if "Group" not in node.op_type else None)
    if node.op_type in rules.VARIANCES and not (
        node.op_type in rules.STASHED and settings.get("stash_type") == _STASH_FLOAT
    ):
        return "its variance is a sum of squares"
    if node.op_type in rules.STASHED:
        if stash != _STASH_FLOAT:
            return "it says that its variance is not to be summed in float32 (stash_type)"
        epsilon = settings.get("epsilon", _EPSILON)
        if isinstance(epsilon, float) and epsilon > 0 and not _there(epsilon, form):
            return f"its epsilon {epsilon:.3g} is 0 in {form.word}"
    if node.op_type == "BatchNormalization":
        return _by_variance(node, known.graph, form)
    return ""


def _there(value: float, form: Format) -> bool:
    import numpy as np

    return float(form.rounded(np.asarray([value], np.float32))[0]) != 0.0


def _by_variance(node: onnx.NodeProto, graph: Graph, form: Format) -> str:
    if node.input[4] not in graph.constants:
        return "its variance is computed"
    least = float(graph.array(node.input[4]).min())
    if least < form.least:
        return f"its least variance, {least:.3g}, is too small for {form.word}"
    return ""


def _by_range(node: onnx.NodeProto, known: Known) -> str:
    name, form = node.op_type, known.form
    if name == "Cast":
        return _by_whole_numbers(node, known)
    if name in rules.CHECKED_SUMS:
        return _by_sum(node, known)
    if name in rules.ANGLES:
        return _by_angle(node, known)
    if form.name == "bf16":  # float32's range
        return ""
    if name in rules.GROWS and node.output[0] not in known.ranges:
        return f"it may overflow {form.word}; --calibrate shows whether it does"
    return _by_zero(node, known)


def _by_angle(node: onnx.NodeProto, known: Known) -> str:
    """Whether rounding turns the largest angle by more than can be borne."""
    top = known.top(node.input[0])
    if top is None:
        return "a large angle would be off by whole turns; --calibrate shows how large they are"
    off = top * 2.0**-known.form.digits
    return f"angles of {top:.3g} would be off by {off:.2g}" if off > rules.TURNED else ""


def _by_zero(node: onnx.NodeProto, known: Known) -> str:
    """Whether what it magnifies near zero comes there."""
    place, least = rules.NEAR_ZERO.get(node.op_type), known.form.least
    if place is None or node.input[place] in known.graph.constants:
        return ""
    if node.op_type == "Pow" and _is_whole_power(node, known.graph):
        return ""
    seen = known.ranges.get(node.input[place])
    if seen is None:
        return "it magnifies what is lost near zero; --calibrate shows whether it comes there"
    return "it magnifies what is lost near zero" if seen.low < least and seen.high > -least else ""


def _is_whole_power(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.input[1] not in graph.constants:
        return False
    power = graph.array(node.input[1]).reshape(-1)
    return power.size == 1 and float(power[0]) >= 1 and float(power[0]).is_integer()


def _by_whole_numbers(node: onnx.NodeProto, known: Known) -> str:
    """A cast from whole numbers: beyond 2048 (256) not all of them are there."""
    most, word = known.form.exact_integers, known.form.word
    top = known.top(node.output[0])
    if known.types.get(node.input[0]) in _INTEGERS and (top is None or top > most):
        return f"it casts whole numbers, and {word} has not all above {most}"
    return ""


def _by_sum(node: onnx.NodeProto, known: Known) -> str:
    """A sum or mean: safe where as many of the largest value as it adds up fit."""
    top, count = known.top(node.input[0]), known.added_up(node)
    if top is None or known.form.name == "bf16":
        return "its sum may overflow or lose what is added last"
    if not top * count <= known.form.largest:
        return f"its sum may reach {top * count:.3g}" if count < inf else "its sum may overflow"
    return ""
