"""Bench, end to end: read what is named, load sources in processes of their own, measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploykit.bench.cases import Case, Subject, Wanted, cases_of, distinct, onnx_subject
from deploykit.bench.run import Describer, Plan, Weight, onnx_weight, run_bench
from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
from deploykit.core.types import OnnxArtifact, TensorSpec
from deploykit.load.artifacts import is_onnx
from deploykit.load.datasets import open_data
from deploykit.load.sources import Source, check_form

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deploykit.bench.result import BenchResult


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """Everything that a measurement is asked for.

    Attributes:
        artifacts: ONNX files, artifacts' folders and PyTorch sources, in the order of the rows.
        wanted: runtimes, batches, threads and the like; every combination is a row.
        plan: how long, how precisely, in how many processes.
        data: real inputs in the words of `deploykit.load.datasets`, or "" to make them up.
        inputs: of PyTorch sources; empty where they know them.
        weights: of PyTorch sources, or `None`.
        trust: whether a `.pt2` file may be loaded.
    """

    artifacts: tuple[str, ...]
    wanted: Wanted = field(default_factory=Wanted)
    plan: Plan = field(default_factory=Plan)
    data: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    weights: Path | None = None
    trust: bool = False


def measure(request: BenchRequest, progress: Progress = silent) -> BenchResult:
    """Measure every combination side by side. A row that fails does not stop the others.

    Args:
        request: what is asked for.
        progress: told where it stands.

    Returns:
        Raw samples and summaries of every row; the failed ones say why.

    Raises:
        BadInputError: something named is not there, does not fit, or is out of its range.
        MissingExtraError: no runtime for it is here.
    """
    with Describer() as describer:
        subjects = distinct(_subjects(request, describer, progress), request.artifacts)
        data = open_data(request.data) if request.data else None

        def weigh(case: Case, feeds: str) -> Weight:
            if isinstance(case.subject.model, OnnxArtifact):
                return onnx_weight(case)
            return describer.weight(case, feeds)

        return run_bench(cases_of(subjects, request.wanted, data), request.plan, weigh, progress)


def _subjects(request: BenchRequest, describer: Describer, progress: Progress) -> Sequence[Subject]:
    sources = [text for text in request.artifacts if not is_onnx(text)]
    for text in sources:  # a typing mistake is told before anything heavy is loaded
        check_form(text)
    asked = {"--input": request.inputs, "--weights": request.weights, "--trust": request.trust}
    for option, value in asked.items():
        if value and not sources:
            raise BadInputError(f"{option} is for PyTorch sources, and none is given")
    subjects = []
    for text in request.artifacts:
        progress(f"reading {text}", None)
        if text in sources:
            source = Source(text, request.weights, request.inputs, request.trust)
            subjects.append(describer.subject(source))
        else:
            subjects.append(onnx_subject(text))
    return subjects
