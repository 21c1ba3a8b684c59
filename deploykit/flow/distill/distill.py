"""Distil, end to end: load student and teacher, train, judge both, hand over.

The folder that is made is a source itself: the student's own, with the weights that it learnt.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.check.accuracy import POINTS, reported
from deploykit.compress.distill.options import SoftTargets
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Check, Report
from deploykit.flow.accuracy import are_classes, labels_type, lost_check
from deploykit.flow.cache import FOLDER_NAME
from deploykit.flow.derived import recipe_text
from deploykit.flow.distill.record import DISTILLATION, Distillation
from deploykit.flow.folders import (
    DISTILLATION_NAME,
    PLAN_NAME,
    REPORT_NAME,
    WEIGHTS_NAME,
    check_free,
    writing_folder,
)
from deploykit.flow.prune.tune import judgeable, judged
from deploykit.flow.rebuild import load_model
from deploykit.flow.splits import VAL, open_splits
from deploykit.flow.tables import options_from
from deploykit.flow.train import with_weights
from deploykit.flow.verify import parity_sizes, real_feeds
from deploykit.load.artifacts import is_onnx
from deploykit.load.datasets import open_data
from deploykit.load.recipe import FILE_NAME, Recipe, is_recipe, load_recipe
from deploykit.load.sources import check_form, resolve
from deploykit.nets.seeding import initial_weights
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from deploykit.check.accuracy import Accuracy
    from deploykit.core.types import Model
    from deploykit.flow.distill.request import DistillRequest
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Data
    from deploykit.load.sources import Source
    from deploykit.train.loop import TrainResult

OURS = frozenset({PLAN_NAME, WEIGHTS_NAME, DISTILLATION_NAME, REPORT_NAME, FILE_NAME, FOLDER_NAME})
"""What a student's folder may hold; the last is what export keeps beside its recipe."""


@dataclass(frozen=True, slots=True)
class DistillResult:
    """What a distillation hands over.

    Attributes:
        folder: with recipe.toml, weights.safetensors, distillation.json and report.json.
        distillation: how it was done.
        report: accuracy of both networks, and how far the student is behind.
    """

    folder: Path
    distillation: Distillation
    report: Report


def run_distill(request: DistillRequest, progress: Progress = silent) -> DistillResult:
    """Do all of it. The networks that were given are not changed.

    Raises:
        BadInputError: anything about the sources, options or data that cannot be used.
        CheckFailedError: the loss left the numbers. Nothing is written.
        EnvironmentFailedError: it cannot be written.
    """
    soft = options_from(request.changes, SoftTargets, "distill")
    check_free(request.out, overwrite=request.overwrite, ours=OURS)
    recipe, of_teacher = _recipe(request.student), _recipe(request.teacher)
    table = dict(recipe.train) if recipe else {}
    options = options_from({**table, **request.tuning}, TrainOptions, "[train]")
    splits = open_splits(request.val, request.eval, recipe)
    data = _learnt(request, recipe, splits)
    source = resolve(request.student)
    weights = source.weights
    starts = weights is not None and weights.exists() and not request.anew
    if not starts and source.plan is None:
        source = replace(source, weights=None)
    progress("loading the networks", None)
    with initial_weights(options.seed):
        student = load_model(source)
    teacher = load_model(_with_weights(resolve(request.teacher), of_teacher, progress))
    for model in (student, teacher):  # what does not fit is told before the long work
        for one in (data, *splits.named.values()):
            real_feeds(model.inputs, parity_sizes(model.inputs)[0], one)
    work = _Work(request, soft, options, student, teacher, splits, data, progress)
    home = (recipe.folder if recipe else request.out.absolute().parent) / FOLDER_NAME
    return work.run(home / "distill", starts=starts or source.plan is not None)


def _recipe(source: Source) -> Recipe | None:
    """A source's recipe, or `None` where it is a plain one.

    Raises:
        BadInputError: it is nothing that can be trained.
    """
    if is_onnx(source.text):
        raise BadInputError(f"{source.text} is an ONNX file: distillation needs PyTorch networks")
    if not is_recipe(source.text):
        check_form(source.text)
        return None
    return load_recipe(Path(source.text))


def _with_weights(source: Source, recipe: Recipe | None, progress: Progress) -> Source:
    return source if recipe is None else with_weights(source, recipe, progress)


def _learnt(request: DistillRequest, recipe: Recipe | None, splits: Splits) -> Data:
    """What the student learns from.

    Raises:
        BadInputError: there is none, or none to judge by, or labels that are no classes.
    """
    if request.train:
        data = open_data(request.train)
    elif recipe is not None and recipe.data.train:
        data = open_data(recipe.data.train, recipe.folder)
    else:
        raise BadInputError("there is nothing to learn from; add --train DATA")
    if splits.val is None:
        raise BadInputError("the best epoch is chosen on data of its own; add --val DATA")
    for split in (data, splits.val):
        labels = labels_type(split)
        if not are_classes(labels):
            has = "no labels" if labels is None else f"labels of type {labels}"
            raise BadInputError(
                f"{split.name} has {has}, and soft targets stand beside classes, which are whole "
                "numbers"
            )
    return data


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Two loaded networks, one of which learns from the other."""

    request: DistillRequest
    soft: SoftTargets
    options: TrainOptions
    student: Model
    teacher: Model
    splits: Splits
    data: Data
    progress: Progress

    def run(self, home: Path, *, starts: bool) -> DistillResult:
        """Train, judge, write.

        Args:
            home: of checkpoints.
            starts: whether the student knows something already.
        """
        self._check_classes()
        taught = self._judge(self.teacher)
        advice = self._advice(taught, self._judge(self.student) if starts else {})
        for text in advice:
            self.progress(text, None)
        result = self._train(home)
        learnt = replace(self.student, module=result.module)
        checks = tuple(self._checks(taught, self._judge(learnt)))
        record = Distillation(
            student=Path(self.request.student.text).name,
            teacher=Path(self.request.teacher.text).name,
            student_parameters=_parameters(learnt.module),
            teacher_parameters=_parameters(self.teacher.module),
            options=asdict(self.soft),
            training=asdict(self.options),
            epochs=len(result.epochs),
            best_epoch=0 if result.best_epoch is None else result.best_epoch + 1,
            seconds=result.seconds,
            advice=advice,
        )
        return self._write(learnt, record, checks)

    def _check_classes(self) -> None:
        """Refuse a pair that does not tell the same classes apart, before the long work."""
        from deploykit.load.calls import run_module

        shapes = []
        for model in (self.teacher, self.student):
            fed = real_feeds(model.inputs, parity_sizes(model.inputs)[0], self.data)
            outputs = list(run_module(model.module, model.inputs, fed).values())
            shapes.append([list(one.shape[1:]) for one in outputs])
        if shapes[0] != shapes[1]:
            raise BadInputError(
                f"the teacher gives {_text(shapes[0])} for a sample and the student "
                f"{_text(shapes[1])}; a teacher has to know the same classes"
            )

    def _judge(self, model: Model) -> dict[str, Accuracy]:
        named = self.splits.named.items()
        metric = self.request.metric
        return {n: judged(model, d, metric, self.progress) for n, d in named if judgeable(d)}

    def _advice(
        self, taught: Mapping[str, Accuracy], start: Mapping[str, Accuracy]
    ) -> tuple[str, ...]:
        """What may be wrong with the pair."""
        found = []
        was, now = taught[VAL], start.get(VAL)
        if now is not None and was.is_share and now.value > was.value:
            found.append(
                f"the teacher is right on {POINTS * was.value:.2f} % of {was.data}, the student "
                f"already on {POINTS * now.value:.2f} %: are the two in each other's place?"
            )
        sizes = [_parameters(one.module) for one in (self.teacher, self.student)]
        if sizes[0] < sizes[1]:
            found.append(f"the teacher has {sizes[0]} parameters, the student {sizes[1]}: more")
        return tuple(found)

    def _train(self, home: Path) -> TrainResult:
        from deploykit.compress.distill.soft_targets import taught
        from deploykit.load.modules import state_digest
        from deploykit.train.loop import train

        teacher, val = self.teacher.module, self.splits.val
        assert val is not None  # refused before
        return train(
            self.student.module,
            self.data,
            val,
            self.options,
            folder=home,
            loss=taught(teacher, self.soft, self.options.label_smoothing),
            loss_key=f"{self.soft} {state_digest(teacher)}",
            progress=self.progress,
        )

    def _checks(
        self, taught: Mapping[str, Accuracy], learnt: Mapping[str, Accuracy]
    ) -> list[Check]:
        checks = []
        for name, was in taught.items():
            now = learnt[name]
            for who, found in (("teacher", was), ("student", now)):
                checks.append(reported(f"{found.metric.name} {who} {name}: {found.data}", found))
            title = f"{now.metric.name} behind the teacher {name}: {now.data}"
            checks.append(lost_check(title, was, now, None))
        return checks

    def _write(
        self, learnt: Model, record: Distillation, checks: tuple[Check, ...]
    ) -> DistillResult:
        from deploykit.load.modules import state_digest
        from deploykit.load.weights import write_weights

        request = self.request
        report = Report(state_digest(learnt.module), checks)
        plan = resolve(request.student).plan
        tables: dict[str, dict[str, str]] = {
            "data": {"train": request.train, "val": request.val, "eval": request.eval}
        }
        text = recipe_text(request.student, request.out, plan=plan is not None, tables=tables)
        with writing_folder(request.out, overwrite=request.overwrite, ours=OURS) as folder:
            write_weights(folder / WEIGHTS_NAME, learnt.module)
            if plan is not None:
                shutil.copyfile(plan, folder / PLAN_NAME)
            records.save(folder / DISTILLATION_NAME, record, DISTILLATION)
            records.save(folder / REPORT_NAME, report, records.REPORT)
            (folder / FILE_NAME).write_text(text, encoding="utf-8")
        return DistillResult(request.out, record, report)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _text(shapes: list[list[int]]) -> str:
    return ", ".join(str(shape) for shape in shapes)
