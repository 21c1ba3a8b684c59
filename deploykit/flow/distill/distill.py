"""Distil, end to end: load student and teachers, train, judge all, hand over.

The folder that is made is a source itself: the student's own, with the weights that it learnt.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.check.accuracy import reported
from deploykit.compress.distill.options import DistillOptions, layers_of
from deploykit.compress.distill.smaller_options import SmallerOptions
from deploykit.core import records
from deploykit.core.processes import is_main
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Check, Report
from deploykit.flow.accuracy import lost_check
from deploykit.flow.cache import FOLDER_NAME
from deploykit.flow.derived import recipe_text
from deploykit.flow.distill.doubts import behind, doubts, parameters, still_parts, worse
from deploykit.flow.distill.lessons import lessons
from deploykit.flow.distill.pair import paired, recipe_of, tried_loss
from deploykit.flow.distill.record import DISTILLATION, Distillation
from deploykit.flow.distill.smaller import reached, smaller_copy
from deploykit.flow.folders import (
    DISTILLATION_NAME,
    PLAN_NAMES,
    REPORT_NAME,
    WEIGHTS_NAME,
    check_free,
    writing_folder,
)
from deploykit.flow.plans import read_plans, write_plans
from deploykit.flow.prune.tune import judgeable, judged
from deploykit.flow.rebuild import load_model
from deploykit.flow.splits import VAL, open_splits
from deploykit.flow.tables import options_from
from deploykit.flow.train import with_weights
from deploykit.load.recipe import FILE_NAME
from deploykit.load.sources import resolve
from deploykit.nets.seeding import initial_weights
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.distill.loss import Taught
    from deploykit.core.types import Model
    from deploykit.flow.distill.pair import Pair
    from deploykit.flow.distill.record import Smaller
    from deploykit.flow.distill.request import DistillRequest
    from deploykit.flow.plans import AnyPlan
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Data
    from deploykit.load.sources import Source
    from deploykit.train.loop import TrainResult

OURS = frozenset(
    {*PLAN_NAMES, WEIGHTS_NAME, DISTILLATION_NAME, REPORT_NAME, FILE_NAME, FOLDER_NAME}
)
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
    options = options_from(request.changes, DistillOptions, "distill")
    smaller = options_from(request.smaller, SmallerOptions, "distill") if request.smaller else None
    check_free(request.out, overwrite=request.overwrite, ours=OURS)
    recipe = recipe_of(request.student, as_stage=request.as_stage)
    table = dict(recipe.train) if recipe else {}
    training = options_from({**table, **request.tuning}, TrainOptions, "[train]")
    splits = open_splits(request.val, request.eval, recipe)
    data = lessons(request, options, recipe, splits)
    progress("loading the networks", None)
    teachers = [_teacher(source, progress) for source in request.teachers]
    if smaller is None:
        student = _student(request, training)
    else:
        student = _copied(request, smaller, teachers[0], training.seed, progress)
    opened = _opened(student.model, options)
    pair = paired(opened, teachers, (data, *splits.named.values()))
    base = recipe.folder if recipe else Path()
    loss = tried_loss(pair, options, training, data, base)
    work = _Work(request, options, training, student, pair, loss, splits, data, base, progress)
    home = (recipe.folder if recipe else request.out.absolute().parent) / FOLDER_NAME
    return work.run(home / "distill")


@dataclass(frozen=True, slots=True, eq=False)
class Student:
    """Who learns.

    Attributes:
        model: where it starts from.
        plans: that lead to it from what its source builds.
        knows: whether it has learnt something before.
        smaller: how it was made of its teacher, if it was.
    """

    model: Model
    plans: tuple[AnyPlan, ...]
    knows: bool
    smaller: Smaller | None = None


def _student(request: DistillRequest, training: TrainOptions) -> Student:
    source = resolve(request.student)
    weights = source.weights
    knows = weights is not None and weights.exists() and not request.anew
    if not knows and not source.plans:
        source = replace(source, weights=None)
    with initial_weights(training.seed):
        model = load_model(source)
    return Student(model, tuple(read_plans(source.plans)), knows or bool(source.plans))


def _copied(
    request: DistillRequest,
    options: SmallerOptions,
    teacher: Model,
    seed: int,
    progress: Progress,
) -> Student:
    progress("making a smaller copy of the teacher", None)
    source = resolve(request.teacher)
    made = smaller_copy(teacher, source, options, anew=request.anew, seed=seed)
    progress(reached(made.record), None)
    return Student(made.model, made.plans, not request.anew, made.record)


def _teacher(source: Source, progress: Progress) -> Model:
    recipe, resolved = recipe_of(source), resolve(source)
    return load_model(with_weights(resolved, recipe, progress) if recipe else resolved)


def _opened(student: Model, options: DistillOptions) -> Model:
    """The student with its layers to be seen where it is a graph; the same weights under it."""
    from deploykit.compress.distill.graph_layers import with_layers

    names = [layers_of(text)[0] for text in (*options.hints, *options.attention)]
    return replace(student, module=with_layers(student.module, names))


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Loaded networks, one of which learns from the others."""

    request: DistillRequest
    options: DistillOptions
    training: TrainOptions
    student: Student
    pair: Pair
    loss: Taught
    splits: Splits
    data: Data
    base: Path
    progress: Progress

    def run(self, home: Path) -> DistillResult:
        """Train, judge, write.

        Args:
            home: of checkpoints.
        """
        pair = self.pair
        taught = [self._judge(teacher) for teacher in pair.teachers]
        start = self._judge(pair.student).get(VAL) if self.student.knows else None
        known = [one[VAL] for one in taught]
        advice = (*doubts(self.request, pair, known, start), *still_parts(pair.student.module))
        for text in advice:
            self.progress(text, None)
        result = self._train(home)
        learnt = self._judge(replace(pair.student, module=result.module))
        checks = tuple(self._checks(taught, learnt))
        record = Distillation(
            student=_name(self.request.student),
            teacher=", ".join(_name(source) for source in self.request.teachers),
            student_parameters=parameters(self.student.model.module),
            teacher_parameters=sum(parameters(one.module) for one in pair.teachers),
            options=asdict(self.options),
            training=asdict(self.training),
            epochs=len(result.epochs),
            best_epoch=0 if result.best_epoch is None else result.best_epoch + 1,
            seconds=result.seconds,
            advice=(*advice, *behind(known[0], learnt[VAL]), *worse(start, learnt[VAL])),
            smaller=self.student.smaller,
        )
        return self._write(self._own(result), record, checks)

    def _judge(self, model: Model) -> dict[str, Accuracy]:
        named = self.splits.named.items()
        metric = self.request.metric
        return {n: judged(model, d, metric, self.progress) for n, d in named if judgeable(d)}

    def _train(self, home: Path) -> TrainResult:
        from deploykit.load.modules import state_digest
        from deploykit.train.loop import train

        val = self.splits.val
        assert val is not None  # refused before
        digests = " ".join(state_digest(one.module) for one in self.pair.teachers)
        return train(
            self.pair.student.module,
            self.data,
            val,
            self.training,
            folder=home,
            loss=self.loss,
            loss_key=f"{self.options} {digests}",
            base=self.base,
            progress=self.progress,
        )

    def _own(self, result: TrainResult) -> Model:
        """What was learnt, in the student as its source builds it."""
        from deploykit.compress.distill.layers import unwrapped

        module = deepcopy(self.student.model.module)
        module.load_state_dict(unwrapped(result.module).state_dict())
        return replace(self.student.model, module=module.eval())

    def _checks(
        self, taught: Sequence[Mapping[str, Accuracy]], learnt: Mapping[str, Accuracy]
    ) -> list[Check]:
        checks = []
        several = len(taught) > 1
        whos = [f"teacher {n + 1}" if several else "teacher" for n in range(len(taught))]
        for name, now in learnt.items():
            everyone = (*zip(whos, (one[name] for one in taught), strict=True), ("student", now))
            for who, found in everyone:
                checks.append(reported(f"{found.metric.name} {who} {name}: {found.data}", found))
            title = f"{now.metric.name} behind the {whos[0]} {name}: {now.data}"
            checks.append(lost_check(title, taught[0][name], now, None))
        return checks

    def _write(
        self, learnt: Model, record: Distillation, checks: tuple[Check, ...]
    ) -> DistillResult:
        from deploykit.load.modules import state_digest
        from deploykit.load.weights import write_weights

        request = self.request
        report = Report(state_digest(learnt.module), checks)
        tables: dict[str, dict[str, str]] = {
            "data": {"train": request.train, "val": request.val, "eval": request.eval}
        }
        if self.pair.student.inputs != learnt.inputs:  # export would refuse data of another size
            tables = {}
        if not is_main():  # of several processes that train together one writes
            return DistillResult(request.out, record, report)
        with writing_folder(request.out, overwrite=request.overwrite, ours=OURS) as folder:
            write_weights(folder / WEIGHTS_NAME, learnt.module)
            names = write_plans(folder, self.student.plans)
            text = recipe_text(request.student, request.out, plans=names, tables=tables)
            records.save(folder / DISTILLATION_NAME, record, DISTILLATION)
            records.save(folder / REPORT_NAME, report, records.REPORT)
            (folder / FILE_NAME).write_text(text, encoding="utf-8")
        return DistillResult(request.out, record, report)


def _name(source: Source) -> str:
    return Path(source.text).name
