"""Export, end to end: load, (train,) (stages,) export, verify, (go lower,) hand over.

What is handed over has passed; what has not passed leaves nothing behind. A recipe keeps each
finished stage in a cache beside it; a plain source has none.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Report, Verdict
from deploykit.core.types import Io, OnnxArtifact, Option
from deploykit.export.options import ExportOptions
from deploykit.flow.accuracy import accuracy_checks
from deploykit.flow.adopt import adopt_verified
from deploykit.flow.cache import FOLDER_NAME, Cache, key_of
from deploykit.flow.derived import moved
from deploykit.flow.exits.deliver import add_stages, exits_of, stage_checks
from deploykit.flow.folders import REPORT_NAME, check_free, writing_folder
from deploykit.flow.lower import LOWER_FILES, Lowering, joined, read_record, read_report
from deploykit.flow.precision import COMMAND, FLOAT, INT8, STAGE, lower_of
from deploykit.flow.rebuild import load_model
from deploykit.flow.splits import Splits, open_splits
from deploykit.flow.stages import check_stages, quantize_table, staged
from deploykit.flow.tables import options_from
from deploykit.flow.train import with_weights
from deploykit.flow.verify import (
    Failure,
    difference_text,
    parity,
    parity_sizes,
    real_feeds,
    runtimes_at_hand,
    unsteady_text,
)
from deploykit.load.artifacts import is_onnx, load_artifact
from deploykit.load.imports import import_place
from deploykit.load.recipe import Recipe, is_recipe, load_recipe
from deploykit.load.sources import Source, check_form, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.export import ExportedProgram

    from deploykit.core.report import Check
    from deploykit.core.types import Model
    from deploykit.flow.exits.record import Exits
    from deploykit.flow.half.record import Half
    from deploykit.flow.precision import Lower
    from deploykit.flow.quantize.record import Quantization
    from deploykit.load.data import Array

_CACHE_NAME = "cache"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Everything that an export is asked for. What stands here wins over a recipe.

    Attributes:
        source: a PyTorch source, a recipe, or an ONNX file from elsewhere.
        out: the folder to make.
        changes: fields of `ExportOptions` that win over the recipe's, or over the defaults.
        val: data that parity runs on and every choice is made by, or "".
        eval: data that only reports, or "".
        metric: how the data is scored, or "" for the usual one of its labels.
        limit: on the relative difference, or `None` for the one of the outputs' type.
        lower: the precision that it shall end in, and what belongs to it, by the names of the
            fields of `deploykit.flow.precision`; wins over the recipe's stage "quantize". Empty
            for that stage, or float32 where there is none.
        overwrite: whether an artifact at `out` may be replaced.
    """

    source: Source
    out: Path
    changes: Mapping[str, Option] = field(default_factory=dict)
    val: str = ""
    eval: str = ""
    metric: str = ""
    limit: float | None = None
    lower: Mapping[str, Option] = field(default_factory=dict)
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export hands over.

    Attributes:
        artifact: in the folder that was asked for.
        report: its checks; all have passed. Those of the float network come first, where the
            artifact is of a lower precision.
        reused: the stages that the cache had.
        lowered: of a lower precision: what is in it, and what stayed float.
    """

    artifact: OnnxArtifact
    report: Report
    reused: tuple[str, ...] = ()
    lowered: Quantization | Half | None = None


def run_export(request: ExportRequest, progress: Progress = silent) -> ExportResult:
    """Do all of it.

    Raises:
        BadInputError: anything about the source, its weights, inputs or data that cannot be used.
        CheckFailedError: the artifact does not compute what the network computes; the message
            names the first tensor that diverges. Nothing is left behind.
        EnvironmentFailedError: it cannot be written.
    """
    check_free(request.out, overwrite=request.overwrite, ours=LOWER_FILES)
    text = request.source.text
    recipe = load_recipe(Path(text)) if is_recipe(text) and not is_onnx(text) else None
    if recipe is not None:
        check_stages(recipe)
    lower = _lower(request, recipe)
    if lower is None:
        return _export_float(request, recipe, progress)
    return _export_lower(request, recipe, lower, progress)


def _lower(request: ExportRequest, recipe: Recipe | None) -> Lower | None:
    """What was asked for on top of the recipe's stage; `None` where all stays float32."""
    asked = request.lower
    stage = quantize_table(recipe) if recipe else None
    if stage is None or asked.get("precision") == FLOAT:
        return lower_of(asked, COMMAND)
    if asked.get("precision", stage.get("precision", INT8)) != stage.get("precision", INT8):
        stage = {key: stage[key] for key in ("calibrate", "max_drop") if key in stage}
    return lower_of({**stage, **asked}, STAGE)


def _export_lower(
    request: ExportRequest, recipe: Recipe | None, lower: Lower, progress: Progress
) -> ExportResult:
    """A float artifact, verified, in a temporary folder; then what was asked for, from it."""
    val, evaluation = request.val, request.eval
    if recipe is not None:
        val, evaluation = (
            asked or (moved(own, recipe.folder, Path()) if own else "")
            for asked, own in ((val, recipe.data.val), (evaluation, recipe.data.eval))
        )
    lowering = Lowering(lower, val, evaluation, request.metric)
    cache = Cache(recipe.folder / FOLDER_NAME / _CACHE_NAME) if recipe else None
    with writing_folder(request.out, overwrite=request.overwrite, ours=LOWER_FILES) as folder:
        place = folder / "float"
        first = _export_float(replace(request, out=place, overwrite=False), recipe, progress)
        had = lowering.put(first.artifact, folder, cache, progress)
        shutil.rmtree(place)
        report = joined(first.report, read_report(folder))
        records.save(folder / REPORT_NAME, report, records.REPORT)
    reused = (*first.reused, lower.loop.precision) if had else first.reused
    return ExportResult(load_artifact(request.out), report, reused, read_record(request.out))


def _export_float(
    request: ExportRequest, recipe: Recipe | None, progress: Progress
) -> ExportResult:
    text = request.source.text
    if is_onnx(text):
        return _export_onnx(request, progress)
    if recipe is None:
        check_form(text)
    table = {**(recipe.export if recipe else {}), **request.changes}
    options = options_from(table, ExportOptions, "[export]")
    splits = open_splits(request.val, request.eval, recipe)
    progress("loading the network", None)
    model, exits = _load(request.source, recipe, splits, progress)
    if exits is not None:  # stages share one file of weights
        options = replace(options, external_data=True)
    for data in splits.named.values():  # data that does not fit is told before the long work
        real_feeds(model.inputs, parity_sizes(model.inputs)[0], data)
    work = _Work(request, options, model, splits, progress, exits)
    return work.plain() if recipe is None else work.cached(recipe)


def _load(
    source: Source, recipe: Recipe | None, splits: Splits, progress: Progress
) -> tuple[Model, Exits | None]:
    """The network, and what was found of its exits where it has some."""
    if recipe is not None:
        whole = with_weights(resolve(source), recipe, progress)
        source = staged(recipe, source, progress) if recipe.stages else whole
    source = resolve(source)
    model, exits = load_model(source), exits_of(source)
    if splits.inputs is None:
        return model, exits
    io = Io(model.io.task, splits.inputs.labels, splits.inputs.preprocessing)
    return replace(model, io=io), exits


def _export_onnx(request: ExportRequest, progress: Progress) -> ExportResult:
    _refuse_unused(request)
    original = load_artifact(Path(request.source.text))
    splits = open_splits(request.val, request.eval)
    with writing_folder(request.out, overwrite=request.overwrite, ours=LOWER_FILES) as folder:
        inputs = request.source.inputs
        artifact, report = adopt_verified(
            original,
            folder,
            inputs=inputs,
            splits=splits,
            limit=request.limit,
            progress=progress,
        )
        accuracy = accuracy_checks(artifact, splits, request.metric, progress)
        report = replace(report, checks=(*report.checks, *accuracy))
        records.save(folder / REPORT_NAME, report, records.REPORT)
    return ExportResult(replace(artifact, folder=request.out), report)


def _refuse_unused(request: ExportRequest) -> None:
    """An option that does nothing must not look as if it had."""
    asked = {f"--{name.replace('_', '-')}" for name in request.changes}
    if request.source.weights is not None:
        asked.add("--weights")
    if asked:
        raise BadInputError(
            f"{request.source.text} is an ONNX file, which is taken as it is: leave out "
            f"{', '.join(sorted(asked))}"
        )


def _code_of(metric: str) -> str:
    """SHA-256, in hex, of the file of a user's metric; "" for one of ours."""
    place, _, _ = metric.rpartition(":")
    file = import_place(place, Path()).__file__ if place else None
    return records.sha256_of(Path(file)) if file else ""


@dataclass(frozen=True, slots=True)
class _Work:
    """A loaded network on its way out."""

    request: ExportRequest
    options: ExportOptions
    model: Model
    splits: Splits
    progress: Progress
    exits: Exits | None = None

    def plain(self) -> ExportResult:
        """Without a cache."""
        out, overwrite = self.request.out, self.request.overwrite
        with writing_folder(out, overwrite=overwrite, ours=LOWER_FILES) as folder:
            program = self._export(folder)
            artifact = load_artifact(folder)
            report = self._verify(artifact, program)
            records.save(folder / REPORT_NAME, report, records.REPORT)
        return ExportResult(replace(artifact, folder=out), report)

    def cached(self, recipe: Recipe) -> ExportResult:
        """Each stage from the recipe's cache where it is there."""
        cache = Cache(recipe.folder / FOLDER_NAME / _CACHE_NAME)
        key = self._export_key()
        artifact, had_export = cache.get_or_make(key, self._fill_export, load_artifact)

        def fill_verify(folder: Path) -> None:
            try:
                report = self._verify(artifact, None)
            except CheckFailedError:
                cache.drop(key)  # what does not pass is kept nowhere
                raise
            records.save(folder / REPORT_NAME, report, records.REPORT)

        report, had_verify = cache.get_or_make(self._verify_key(artifact), fill_verify, read_report)
        out, overwrite = self.request.out, self.request.overwrite
        with writing_folder(out, overwrite=overwrite, ours=LOWER_FILES) as folder:
            for file in artifact.folder.iterdir():
                shutil.copyfile(file, folder / file.name)
            records.save(folder / REPORT_NAME, report, records.REPORT)
        reused = {"export": had_export, "verify": had_verify}
        names = tuple(name for name, had in reused.items() if had)
        return ExportResult(load_artifact(out), report, names)

    def _export_key(self) -> str:
        from deploykit.export.torch_to_onnx import versions  # brings torch

        step = self.model.history[-1]
        return key_of(step, "export", versions(), self.options, self.model.io, self.exits)

    def _verify_key(self, artifact: OnnxArtifact) -> str:
        import onnxruntime

        step = self.model.history[-1]
        names = [runtime.name for runtime in runtimes_at_hand()]
        where = (onnxruntime.__version__, *names)
        metric = (self.request.metric, _code_of(self.request.metric))
        judged = (artifact.digest, self.request.limit, metric, self.splits.digests)
        return key_of(step, "verify", __version__, where, judged)

    def _fill_export(self, folder: Path) -> None:
        self._export(folder)

    def _export(self, folder: Path) -> ExportedProgram | None:
        from deploykit.export.torch_to_onnx import export_model  # brings torch

        self.progress("exporting to ONNX", None)
        made = export_model(self.model, folder, self.options)
        if self.exits is not None:
            self.progress("cutting the graph into stages", None)
            add_stages(made.artifact, folder, self.exits)
        return made.program

    def _verify(self, artifact: OnnxArtifact, program: ExportedProgram | None) -> Report:
        from deploykit.load.calls import run_module  # brings torch

        def reference(fed: Mapping[str, Array]) -> dict[str, Array]:
            return run_module(self.model.module, self.model.inputs, fed)

        limit = self.request.limit
        result = parity(
            artifact, reference, self.splits.inputs, limit=limit, progress=self.progress
        )
        if result.failure is not None:
            raise CheckFailedError(self._failure_text(result.failure, artifact, program))
        stages: list[Check] = []
        if self.exits is not None:
            self.progress("parity of the stages", None)
            stages = stage_checks(artifact.folder, reference, self.splits.inputs, limit)
        accuracy = accuracy_checks(
            artifact,
            self.splits,
            self.request.metric,
            self.progress,
            lambda fed: list(reference(fed).values()),
        )
        for check in (*stages, *accuracy):
            if check.verdict is not Verdict.PASSED:
                raise CheckFailedError(f"{difference_text(check)}; nothing was written")
        return Report(artifact.digest, (*result.checks, *stages, *accuracy))

    def _failure_text(
        self, failure: Failure, artifact: OnnxArtifact, program: ExportedProgram | None
    ) -> str:
        from deploykit.check.localise import localise
        from deploykit.export.torch_to_onnx import decomposed

        where = localise(
            program or decomposed(self.model, self.options),
            artifact,
            failure.runtime,
            failure.feeds,
            self.request.limit,
        )
        why = unsteady_text(failure)
        return f"{difference_text(failure.check)}; {where}{why}; nothing was written"
