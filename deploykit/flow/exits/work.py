"""A loaded network on its way to having exits: place, train, calibrate, solve, judge, write."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from deploykit.check.accuracy import Accuracy, reported
from deploykit.check.metrics import metric_named
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.report import Check, Report, Verdict
from deploykit.export.options import ExportOptions
from deploykit.flow.accuracy import lost_check
from deploykit.flow.cache import FOLDER_NAME, kept_folder
from deploykit.flow.derived import recipe_text
from deploykit.flow.exits.cost import Costs, exit_costs
from deploykit.flow.exits.record import EXITS, Exits
from deploykit.flow.exits.said import said_of
from deploykit.flow.exits.solve import left_scores, solve
from deploykit.flow.exits.stages import write_stages
from deploykit.flow.folders import EXITS_NAME, PLAN_NAMES, REPORT_NAME, WEIGHTS_NAME, writing_folder
from deploykit.flow.plans import followed_by, read_plans, write_plans
from deploykit.flow.prune.tune import judged
from deploykit.flow.rebuild import with_exits
from deploykit.flow.side_by_side import RUNTIME
from deploykit.load.recipe import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deploykit.compress.exits.options import ExitsOptions
    from deploykit.compress.exits.plan import ExitsPlan
    from deploykit.core.progress import Progress
    from deploykit.core.types import Model, OnnxArtifact, TensorSpec
    from deploykit.flow.exits.request import ExitsRequest
    from deploykit.flow.exits.solve import Solved
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Array, Data
    from deploykit.load.sources import Source
    from deploykit.train.loop import TrainResult
    from deploykit.train.options import TrainOptions

OURS = frozenset({*PLAN_NAMES, WEIGHTS_NAME, EXITS_NAME, REPORT_NAME, FILE_NAME, FOLDER_NAME})
"""What the folder of a network with exits may hold."""
_MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class ExitsResult:
    """What is handed over.

    Attributes:
        folder: with recipe.toml, plan.json, weights.safetensors, exits.json and report.json.
        exits: what was found.
        report: its checks.
    """

    folder: Path
    exits: Exits
    report: Report


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A loaded network that gets exits.

    Attributes:
        request: what was asked for.
        options: of the exits.
        training: of joint training.
        model: what was given.
        source: where it is from, resolved.
        splits: data to judge by; `val` is there.
        train: data to learn from.
        home: folder of all that is kept between runs.
        progress: told where it stands.
    """

    request: ExitsRequest
    options: ExitsOptions
    training: TrainOptions
    model: Model
    source: Source
    splits: Splits
    train: Data
    home: Path
    progress: Progress

    def run(self) -> ExitsResult:
        """All of it, into a folder that appears when it is done.

        Raises:
            BadInputError: a layer that cannot have an exit.
            CheckFailedError: training left the numbers.
        """
        request = self.request
        plan = self.plan()
        kept_folder(self.home)
        with writing_folder(request.out, overwrite=request.overwrite, ours=OURS) as folder:
            made, trained = self._trained(plan)
            place = folder / _MEASURED
            found = self._found(made, plan, trained, place)
            shutil.rmtree(place)
            return self._write(folder, made, plan, found)

    def plan(self) -> ExitsPlan:
        """A head for every layer that was named, or where measured costs put them."""
        from deploykit.compress.exits.heads import heads_for
        from deploykit.flow.exits.place import few_samples, placed

        layers = self.options.at
        if not layers:
            val = self.splits.val
            assert val is not None  # checked before
            feeds = real_call(self.model.inputs, val, self.request.batch)
            layers = placed(
                self.model, self.options.exits, feeds, self.request.threads, self.progress
            )
        return heads_for(self.model.module, few_samples(self.model), layers, self.options.head)

    def _trained(self, plan: ExitsPlan) -> tuple[Model, TrainResult]:
        from deploykit.compress.exits.loss import EveryExit, joint_loss
        from deploykit.train.loop import train

        options = self.options
        made = with_exits(self.model, plan, seed=options.seed, frozen=options.frozen)
        val = self.splits.val
        assert val is not None  # checked before
        result = train(
            made.module,
            self.train,
            val,
            self.training,
            folder=self.home / "exits",
            loss=joint_loss(options),
            loss_key=f"{options} {plan}",
            task=EveryExit(label_smoothing=self.training.label_smoothing),
            progress=self.progress,
        )
        return replace(made, module=result.module), result

    def _found(self, made: Model, plan: ExitsPlan, trained: TrainResult, place: Path) -> Exits:
        """Calibrated, solved and judged on the exported graph, as it will run."""
        request, val = self.request, self.splits.val
        assert val is not None  # checked before
        artifact, whole = (
            self._exported(model, place / name)
            for model, name in ((made, "all"), (self.model, "whole"))
        )
        exits = exit_names(plan)
        self.progress("timing the way to every exit", None)
        feeds = real_call(self.model.inputs, val, request.batch)
        stages = write_stages(artifact, artifact.folder, exits, rule=request.rule)
        costs = exit_costs(stages, artifact.folder, feeds, request.threads, whole)
        before = self._judge(self.model)
        solved = self._solved(artifact, plan, costs, before[0][1].value)
        checks = self._checks(artifact, exits, solved, before)
        assert costs.whole_ns is not None  # it was asked for
        return Exits(
            rule=request.rule,
            rows=solved.rows,
            curve=solved.curve,
            target=solved.target,
            met=solved.met,
            given_accuracy=before[0][1].value,
            accuracy=solved.accuracy,
            cost_ns=solved.cost_ns,
            whole_ns=costs.whole_ns,
            batch=len(next(iter(feeds.values()))),
            threads=request.threads,
            max_drop=None if request.latency else request.drop,
            latency=request.latency,
            runtime=RUNTIME,
            samples=len(val),
            options=asdict(self.options),
            training=asdict(self.training),
            epochs=len(trained.epochs),
            best_epoch=0 if trained.best_epoch is None else trained.best_epoch + 1,
            seconds=trained.seconds,
            checks=tuple(checks),
        )

    def _exported(self, model: Model, place: Path) -> OnnxArtifact:
        from deploykit.export.torch_to_onnx import export_model

        place.mkdir(parents=True)
        return export_model(model, place, ExportOptions(external_data=True)).artifact

    def _judge(self, model: Model) -> list[tuple[Data, Accuracy]]:
        return [
            (data, judged(model, data, "top-1", self.progress))
            for data in self.splits.named.values()
        ]

    def _solved(
        self, artifact: OnnxArtifact, plan: ExitsPlan, costs: Costs, given: float
    ) -> Solved:
        val = self.splits.val
        assert val is not None  # checked before
        said = said_of(artifact, exit_names(plan), val, self.progress)
        return solve(said, costs, self.request, given, [one.layer for one in plan.exits])

    def _checks(
        self,
        artifact: OnnxArtifact,
        exits: tuple[str, ...],
        solved: Solved,
        before: list[tuple[Data, Accuracy]],
    ) -> list[Check]:
        """Accuracy before and after on each split; the target is held against on `val` alone."""
        checks = []
        for (data, was), name in zip(before, self.splits.named, strict=True):
            said = said_of(artifact, exits, data, self.progress)
            now = Accuracy(
                data.name, metric_named("top-1"), left_scores(said, solved, self.request.rule)
            )
            checks += [reported(f"{name} before", was), reported(f"{name} with exits", now)]
            limit = self.request.drop if name == "val" and not self.request.latency else None
            checks.append(lost_check(name, was, now, limit))
        if self.request.latency:
            verdict = Verdict.PASSED if solved.met else Verdict.FAILED
            advice = "" if solved.met else "no thresholds are as fast: this is the fastest"
            checks.append(Check(solved.target, verdict, solved.cost_ns, unit="ns", advice=advice))
        return checks

    def _write(self, folder: Path, made: Model, plan: ExitsPlan, record: Exits) -> ExitsResult:
        from deploykit.load.modules import state_digest
        from deploykit.load.weights import write_weights

        request = self.request
        report = Report(state_digest(made.module), record.checks)
        plans = followed_by(read_plans(self.source.plans), plan)
        write_weights(folder / WEIGHTS_NAME, made.module)
        records.save(folder / EXITS_NAME, record, EXITS)
        records.save(folder / REPORT_NAME, report, records.REPORT)
        tables = {"data": {"train": request.train, "val": request.val, "eval": request.eval}}
        names = write_plans(folder, plans)
        text = recipe_text(request.source, request.out, plans=names, tables=tables)
        (folder / FILE_NAME).write_text(text, encoding="utf-8")
        return ExitsResult(request.out, record, report)


def exit_names(plan: ExitsPlan) -> tuple[str, ...]:
    """Of the outputs of a network with exits, in the order of computation."""
    return (*(f"exit{number + 1}" for number in range(len(plan.exits))), "output")


def real_call(specs: Sequence[TensorSpec], data: Data, batch: int | None) -> Mapping[str, Array]:
    """Inputs of one call: the first samples of a data set."""
    from deploykit.check.accuracy import call_size
    from deploykit.load.data import feeds

    size = call_size(specs, batch or 1, len(data))
    if batch is not None and size != batch:
        raise BadInputError(f"batch {batch} does not fit the network, which takes {size}")
    return feeds(data.batch(list(range(size))), specs, data.name)
