"""Half precision, end to end: read, prepare, (calibrate,) convert, verify, hand over.

No latency is taken: the targets are GPUs, and ONNX Runtime's CPU computes float16 in float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Report
from deploykit.core.types import Step
from deploykit.export.write import check_file, record_artifact
from deploykit.flow.calibration import calibration_batches
from deploykit.flow.exits.again import stages_again
from deploykit.flow.folders import OURS, REPORT_NAME, check_free, writing_folder
from deploykit.flow.half.proof import Proof
from deploykit.flow.half.record import HALF, HALF_NAME, Half, HalfRow
from deploykit.flow.splits import check_limit, open_splits
from deploykit.flow.tables import options_from
from deploykit.flow.verify import real_feeds
from deploykit.load.artifacts import MODEL_NAME, load_artifact, read_graph
from deploykit.load.datasets import open_data
from deploykit.quantize.half_options import HalfOptions

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import OnnxArtifact, TensorSpec
    from deploykit.flow.half.request import HalfRequest
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Data
    from deploykit.quantize.half.convert import Halved
    from deploykit.quantize.prepare.prepare import Prepared
    from deploykit.quantize.ranges import Range

FILES = OURS | {HALF_NAME}


@dataclass(frozen=True, slots=True)
class HalfResult:
    """What a conversion hands over.

    Attributes:
        artifact: in the folder that was asked for.
        report: its checks.
        half: its record.
    """

    artifact: OnnxArtifact
    report: Report
    half: Half


def run_half(request: HalfRequest, progress: Progress = silent) -> HalfResult:
    """Do all of it.

    Raises:
        BadInputError: the network cannot be converted, or data or options do not fit.
        CheckFailedError: it computes something else, or lost more than `max_drop`. Nothing is left
            behind.
        EnvironmentFailedError: it cannot be written or run.
    """
    from deploykit.quantize.prepare.prepare import prepare

    check_free(request.out, overwrite=request.overwrite, ours=FILES)
    table = {**request.changes, "precision": request.precision}
    options = options_from(table, HalfOptions, request.precision)
    original = load_artifact(request.source)
    check_limit(request.max_drop, request.val)
    splits = open_splits(request.val, request.eval)
    data = open_data(request.calibrate) if request.calibrate else None
    for one in ([data] if data else []) + list(splits.named.values()):
        if not len(one):
            raise BadInputError(f"{one.name} is empty")
        real_feeds(original.inputs, {}, one)
    progress("preparing the graph", None)
    prepared = prepare(read_graph(original.model_path), original.folder)
    work = _Work(request, options, original, prepared, data, splits, progress)
    with writing_folder(request.out, overwrite=request.overwrite, ours=FILES) as folder:
        result = work.fill(folder)
    return replace(result, artifact=replace(result.artifact, folder=request.out))


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A conversion under way."""

    request: HalfRequest
    options: HalfOptions
    original: OnnxArtifact
    prepared: Prepared
    data: Data | None
    splits: Splits
    progress: Progress

    def fill(self, folder: Path) -> HalfResult:
        """Write everything into an empty folder."""
        from deploykit.quantize.half.convert import halve
        from deploykit.quantize.quantize import excluded_nodes

        excluded = excluded_nodes(self.prepared.model.graph, self.options.exclude)
        ranges = self._ranges()
        self.progress(f"converting to {self.options.precision}", None)
        made = halve(self.prepared, self.options, ranges, excluded)
        artifact = self._write(folder, made)
        artifact, exits = stages_again(self.original, artifact, folder, self.splits, self.progress)
        record = self._record(made, artifact)
        records.save(folder / HALF_NAME, record, HALF)
        proof = Proof(
            self.request, self.options, self.original, self.splits, self.data, self.progress
        )
        checks = proof.checks(artifact, made, self.prepared.folder)
        report = Report(artifact.digest, (*checks, *exits))
        records.save(folder / REPORT_NAME, report, records.REPORT)
        return HalfResult(artifact, report, record)

    @property
    def _count(self) -> int:
        """Samples that calibration sees."""
        return min(self.options.samples, len(self.data)) if self.data else 0

    def _ranges(self) -> dict[str, Range]:
        """The extremes of every value; empty without data."""
        from deploykit.quantize.calibrate.calibrate import calibrate
        from deploykit.quantize.half.convert import known_of
        from deploykit.quantize.half.observe import FiniteExtremes, wanted_values

        if self.data is None:
            return {}
        known = known_of(self.prepared, self.options)
        return calibrate(
            self.prepared,
            wanted_values(known),
            calibration_batches(self.data, self.original.inputs, self._count, self.options.at_once),
            FiniteExtremes,
            progress=self.progress,
        )

    def _write(self, folder: Path, made: Halved) -> OnnxArtifact:
        import onnx

        from deploykit.quantize.graph.write import write_graph

        path, *_ = write_graph(made.model, self.prepared.folder, folder / MODEL_NAME)
        check_file(path)
        digests = {"model": self.original.digest}
        step = Step(
            name=self.options.precision,
            options=asdict(self.options),
            input_digests=digests | ({"data": self.data.digest()} if self.data else {}),
            versions={"deploykit": __version__, "onnx": onnx.__version__},
        )
        types = {v.name: v.type.tensor_type.elem_type for v in made.model.graph.input}
        inputs = tuple(_typed(spec, types[spec.name]) for spec in self.original.inputs)
        history = (*self.original.history, step)
        return record_artifact(folder, inputs=inputs, io=self.original.io, history=history)

    def _record(self, made: Halved, artifact: OnnxArtifact) -> Half:
        from deploykit.quantize.half.convert import kept_reasons

        rows = kept_reasons(made, self.prepared.model.graph)
        return Half(
            self.options.precision,
            self.options.target,
            tuple(HalfRow(*row) for row in rows),
            self._count,
            self.original.size_bytes,
            artifact.size_bytes,
            asdict(self.options),
        )


def _typed(spec: TensorSpec, kind: int) -> TensorSpec:
    """The spec with the type that the input has now."""
    from onnx import helper

    name = helper.tensor_dtype_to_np_dtype(kind).name if kind else spec.dtype
    return replace(spec, dtype=name)
