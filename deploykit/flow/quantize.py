"""Quantization, end to end: read, prepare, calibrate, place, verify, measure, hand over.

What is slower than the float network, or loses more than was allowed, is not handed over.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.bench.optimised import left_in_float
from deploykit.check.accuracy import accuracy, call_size, reported
from deploykit.check.metrics import metric_named
from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.measurement import Target
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Check, Report, Verdict
from deploykit.core.types import Step
from deploykit.export.write import check_file, record_artifact
from deploykit.flow.accuracy import labels_type, lost_check, usual_metric
from deploykit.flow.folders import OURS, REPORT_NAME, check_free, writing_folder
from deploykit.flow.quantize_record import (
    QUANTIZATION,
    QUANTIZATION_NAME,
    RANGES_NAME,
    LayerRow,
    Quantization,
)
from deploykit.flow.side_by_side import RUNTIME, side_by_side
from deploykit.flow.splits import VAL, Splits, open_splits
from deploykit.flow.tables import options_from
from deploykit.load.artifacts import MODEL_NAME, load_artifact, read_graph
from deploykit.load.data import feeds
from deploykit.load.datasets import open_data
from deploykit.quantize.calibration_options import CalibrationOptions
from deploykit.quantize.options import QuantizeOptions
from deploykit.quantize.ranges import RANGES, Ranges
from deploykit.runtimes import runtime_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deploykit.check.accuracy import Accuracy
    from deploykit.core.types import OnnxArtifact, Option
    from deploykit.load.data import Array, Data
    from deploykit.quantize.prepare.prepare import Prepared
    from deploykit.quantize.quantize import Quantized
    from deploykit.quantize.ranges import Range

FILES = OURS | {RANGES_NAME, QUANTIZATION_NAME}
_MEASURED = ("ort-cpu", "portable")
"""Targets whose latency this machine can take on ONNX Runtime."""
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class QuantizeRequest:
    """Everything that a quantization is asked for.

    Attributes:
        source: a float ONNX artifact: a folder or a file.
        out: the folder to make.
        calibrate: data that shows the ranges of activations.
        changes: fields of `QuantizeOptions` and `CalibrationOptions` that are not the default.
        val: data that the loss of accuracy is judged on, or "".
        eval: data that only reports, or "".
        metric: how data is scored, or "" for the usual one of its labels.
        max_drop: points on `val` that may be lost; `None` only reports.
        measure: whether the latency is compared with the float network's.
        batch: of that measurement; `None` takes the smallest.
        threads: of it; `None` leaves it to the runtime.
        force: hand over what is slower, all the same.
        overwrite: whether an artifact at `out` may be replaced.
    """

    source: Path
    out: Path
    calibrate: str
    changes: Mapping[str, Option] = field(default_factory=dict)
    val: str = ""
    eval: str = ""
    metric: str = ""
    max_drop: float | None = None
    measure: bool = True
    batch: int | None = None
    threads: int | None = None
    force: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What a quantization hands over.

    Attributes:
        artifact: in the folder that was asked for.
        report: its checks.
        quantization: its record.
    """

    artifact: OnnxArtifact
    report: Report
    quantization: Quantization


def run_quantize(request: QuantizeRequest, progress: Progress = silent) -> QuantizeResult:
    """Do all of it.

    Raises:
        BadInputError: the network cannot be quantized, or data or options do not fit.
        CheckFailedError: it is slower than the float network (without `force`), or lost more than
            `max_drop`. Nothing is left behind.
        EnvironmentFailedError: it cannot be written or run.
    """
    from deploykit.quantize.prepare.prepare import prepare

    check_free(request.out, overwrite=request.overwrite, ours=FILES)
    options, calibration = _options(request.changes)
    original = load_artifact(request.source)
    data = open_data(request.calibrate)
    splits = open_splits(request.val, request.eval)
    for one in (data, *splits.named.values()):
        _fed(one, original, [0])
    progress("preparing the graph", None)
    prepared = prepare(read_graph(original.model_path), original.folder)
    work = _Work(request, options, calibration, original, prepared, data, splits, progress)
    with writing_folder(request.out, overwrite=request.overwrite, ours=FILES) as folder:
        result = work.fill(folder)
    return replace(result, artifact=replace(result.artifact, folder=request.out))


def _options(changes: Mapping[str, Option]) -> tuple[QuantizeOptions, CalibrationOptions]:
    calibration = {f.name for f in fields(CalibrationOptions)}
    mine = {name: value for name, value in changes.items() if name not in calibration}
    theirs = {name: value for name, value in changes.items() if name in calibration}
    return (
        options_from(mine, QuantizeOptions, "quantize"),
        options_from(theirs, CalibrationOptions, "quantize"),
    )


def _fed(data: Data, artifact: OnnxArtifact, rows: list[int]) -> dict[str, Array]:
    if not len(data):
        raise BadInputError(f"{data.name} is empty")
    size = call_size(artifact.inputs, len(rows), len(data))
    return feeds(data.batch((rows * size)[:size]), artifact.inputs, data.name)


def _proof(artifact: OnnxArtifact) -> Check:
    """Whether everything that is quantized runs in integers."""
    left = left_in_float(artifact)
    advice = f"ONNX Runtime has no kernel for {', '.join(left[:_MOST_NAMED])}: --exclude them"
    return Check(
        f"nodes between quantizers that {RUNTIME} runs in float",
        Verdict.FAILED if left else Verdict.PASSED,
        float(len(left)),
        limit=0.0,
        advice=advice if left else "",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A quantization under way."""

    request: QuantizeRequest
    options: QuantizeOptions
    calibration: CalibrationOptions
    original: OnnxArtifact
    prepared: Prepared
    data: Data
    splits: Splits
    progress: Progress

    def fill(self, folder: Path) -> QuantizeResult:
        """Write everything into an empty folder."""
        from deploykit.quantize.quantize import excluded_nodes, quantize, ranges_of, rescaled

        excluded = excluded_nodes(self.prepared.model.graph, self.options.exclude)
        threads = self.request.threads or 0
        prepared = rescaled(
            self.prepared, self.options, self._batches, threads=threads, progress=self.progress
        ).prepared
        ranges = ranges_of(
            prepared,
            self.options,
            self.calibration,
            self._batches(),
            excluded=excluded,
            threads=threads,
            progress=self.progress,
        )
        self.progress("placing quantizers", None)
        made = quantize(prepared, self.options, ranges, excluded)
        artifact = self._write(folder, made)
        record = self._record(made)
        records.save(folder / QUANTIZATION_NAME, record, QUANTIZATION)
        records.save(folder / RANGES_NAME, self._ranges(made.ranges), RANGES)
        report = Report(artifact.digest, tuple(self._checks(artifact)))
        records.save(folder / REPORT_NAME, report, records.REPORT)
        return QuantizeResult(artifact, report, record)

    @property
    def _count(self) -> int:
        """Samples that are seen."""
        return min(self.options.samples, len(self.data))

    @property
    def _size(self) -> int:
        return call_size(self.original.inputs, self.options.at_once, len(self.data))

    def _batches(self) -> Iterator[dict[str, Array]]:
        size, inputs = self._size, self.original.inputs
        for start in range(0, self._count, size):
            rows = list(range(start, min(start + size, self._count)))
            if call_size(inputs, len(rows), len(rows)) != len(rows):
                # Not a batch that the network takes: filled up with samples that were seen before.
                rows += [row % self._count for row in range(size - len(rows))]
            yield feeds(self.data.batch(rows), self.original.inputs, self.data.name)

    def _write(self, folder: Path, made: Quantized) -> OnnxArtifact:
        import onnx

        from deploykit.quantize.graph.write import write_graph

        path, *_ = write_graph(made.model, self.prepared.folder, folder / MODEL_NAME)
        check_file(path)
        step = Step(
            name="quantize",
            options=self._all_options,
            input_digests={"model": self.original.digest, "data": self.data.digest()},
            versions={"deploykit": __version__, "onnx": onnx.__version__},
        )
        history = (*self.original.history, step)
        artifact = self.original
        return record_artifact(folder, inputs=artifact.inputs, io=artifact.io, history=history)

    @property
    def _all_options(self) -> dict[str, Option]:
        return {**asdict(self.options), **asdict(self.calibration)}

    def _record(self, made: Quantized) -> Quantization:
        left = {one.node: one.why for one in made.decision.left}
        layers = tuple(
            LayerRow(node.name, node.op_type, left.get(node.name, ""))
            for node in self.prepared.model.graph.node
            if node.name in left or node.name in made.decision.nodes
        )
        return Quantization(self.options.target, layers, self._count, self._all_options)

    def _ranges(self, used: tuple[Range, ...]) -> Ranges:
        return Ranges(
            self.original.digest, self.calibration.method, self._count, self.data.digest(), used
        )

    def _checks(self, artifact: OnnxArtifact) -> Iterator[Check]:
        if self.options.target in _MEASURED:
            yield _proof(artifact)
            if self.request.measure:
                yield self._latency(artifact)
        for name, data in self.splits.named.items():
            if labels_type(data) is not None:
                yield from self._accuracy(name, data, artifact)

    def _latency(self, artifact: OnnxArtifact) -> Check:
        self.progress("measuring float and quantized in turns", None)
        found = side_by_side(
            self.original.model_path,
            artifact.model_path,
            batch=self.request.batch,
            threads=self.request.threads,
            careful=True,
            progress=self.progress,
        )
        if found.share > 1 and not self.request.force:
            raise CheckFailedError(
                f"quantization does not help here: {self.original.model_path.name} takes "
                f"{found.share:.3g}x of its time on {RUNTIME}; nothing was written; --force hands "
                "it over all the same"
            )
        return found.check(1.0)

    def _accuracy(self, name: str, data: Data, artifact: OnnxArtifact) -> Iterator[Check]:
        was, now = self._scored(self.original, data), self._scored(artifact, data)
        for said, found in (("float", was), ("quantized", now)):
            yield reported(f"{found.metric.name} {said} {name}: {data.name}", found)
        limit = self.request.max_drop if name == VAL else None
        title = f"{now.metric.name} lost {name}: {data.name}"
        check = lost_check(title, was, now, limit)
        if limit is not None and check.verdict is not Verdict.PASSED:
            unit = f" {check.unit}" if check.unit else ""
            raise CheckFailedError(
                f"{title} is {check.value:.4g}{unit}, allowed is {limit:g}; nothing was written; "
                "try --method percentile or mse, more --samples, or --exclude layers"
            )
        yield check

    def _scored(self, artifact: OnnxArtifact, data: Data) -> Accuracy:
        metric = metric_named(self.request.metric or usual_metric(data))
        session = runtime_named(RUNTIME).open(artifact, Target(runtime=RUNTIME))
        try:
            return accuracy(
                lambda fed: session.bind(fed)(),
                data,
                artifact.inputs,
                metric,
                progress=self.progress,
            )
        finally:
            session.close()
