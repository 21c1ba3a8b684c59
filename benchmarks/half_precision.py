"""Float16: are graphs that are hard on it still right, and valid? Ours beside ONNX Runtime's.

Judged by ONNX's reference evaluator, which computes every node in the type that the file says:
ONNX Runtime's CPU computes float16 in float32 and hides what overflows.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from benchmarks.half_graphs import cases
from benchmarks.result import Figure, Result
from deploykit.check.parity import relative_difference
from deploykit.quantize.half.convert import halve, known_of
from deploykit.quantize.half.observe import FiniteExtremes, wanted_values
from deploykit.quantize.half_options import HalfOptions
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from benchmarks.half_graphs import Case

GOAL = (
    "Of graphs that float16 is hard on, converted with calibration, all are valid by onnx's full "
    "check and within 1 % of float32 when computed in float16; ONNX Runtime's converter beside it."
)
_LIMIT = 1e-2


def run(*, quick: bool) -> Result:  # noqa: ARG001  (it takes seconds)
    """Each graph through both converters."""
    tried = list(cases())
    valid, right = {"ours": 0, "ort": 0}, {"ours": 0, "ort": 0}
    for case in tried:
        for who, convert in (("ours", _ours), ("ort", _theirs)):
            made = convert(case)
            checked, gap = _is_valid(made), _difference(case, made)
            valid[who] += checked
            right[who] += gap <= _LIMIT
            print(f"  {case.name}, {who}: {'valid' if checked else 'refused'}, {gap:.2g}")
    every = len(tried)
    goal = f"all {every}"
    return Result(
        (
            Figure("graphs that are valid, ours", valid["ours"], "", goal, valid["ours"] == every),
            Figure("graphs that are right, ours", right["ours"], "", goal, right["ours"] == every),
            Figure("graphs that are valid, ONNX Runtime's converter", valid["ort"], ""),
            Figure("graphs that are right, ONNX Runtime's converter", right["ort"], ""),
        )
    )


def _ours(case: Case) -> onnx.ModelProto:
    from deploykit.quantize.calibrate.calibrate import calibrate

    options = HalfOptions()
    prepared = prepare(case.model)
    known = known_of(prepared, options)
    wanted = wanted_values(known)
    ranges = calibrate(prepared, wanted, [case.feeds], FiniteExtremes, threads=1)
    return halve(prepared, options, ranges).model


def _theirs(case: Case) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(case.model)
    made: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    return made


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _difference(case: Case, model: onnx.ModelProto) -> float:
    """Relative, computed in the types that the file says; nodes are put in order first."""
    want = next(iter(ReferenceEvaluator(case.model).run(None, dict(case.feeds))))
    ordered = onnx.ModelProto()
    ordered.CopyFrom(model)
    known = {one.name for one in (*model.graph.input, *model.graph.initializer)} | {""}
    left = list(model.graph.node)
    del ordered.graph.node[:]
    while left:
        ready = [node for node in left if known.issuperset(node.input)]
        if not ready:
            return float("inf")
        ordered.graph.node.extend(ready)
        known.update(name for node in ready for name in node.output)
        left = [node for node in left if not any(node is one for one in ready)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = next(iter(ReferenceEvaluator(ordered).run(None, dict(case.feeds))))
        except (RuntimeError, TypeError, ValueError):  # types that do not go together
            return float("inf")
    return relative_difference(want, found)
