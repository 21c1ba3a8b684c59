"""A loaded network on its way to being separable: choose, split and fit, train, judge, write."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from deploykit.core import records
from deploykit.core.errors import CheckFailedError
from deploykit.core.report import Check, Report, Verdict
from deploykit.flow.cache import FOLDER_NAME, kept_folder
from deploykit.flow.derived import recipe_text
from deploykit.flow.folders import (
    PLAN_NAMES,
    REPORT_NAME,
    SEPARABLE_NAME,
    WEIGHTS_NAME,
    writing_folder,
)
from deploykit.flow.plans import followed_by, read_plans, write_plans
from deploykit.flow.prune.judge import accuracy_checks
from deploykit.flow.prune.latency import Bench
from deploykit.flow.prune.tune import judgeable, judged
from deploykit.flow.rebuild import separated
from deploykit.flow.separable.layers import Layers
from deploykit.flow.separable.record import SEPARABLE, Separable, Speed
from deploykit.flow.splits import VAL, Splits
from deploykit.load.recipe import FILE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.separable.options import SeparableOptions
    from deploykit.compress.separable.plan import SeparablePlan
    from deploykit.compress.separable.refit import Fit
    from deploykit.core.progress import Progress
    from deploykit.core.types import Model
    from deploykit.flow.prune.tune import Tuning
    from deploykit.flow.separable.request import SeparableRequest
    from deploykit.flow.separable.samples import Samples
    from deploykit.load.sources import Source
    from deploykit.train.loop import TrainResult

OURS = frozenset({*PLAN_NAMES, WEIGHTS_NAME, SEPARABLE_NAME, REPORT_NAME, FILE_NAME, FOLDER_NAME})
"""What a separable network's folder may hold; the last is what export keeps beside its recipe."""
_MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class SeparableResult:
    """What is handed over.

    Attributes:
        folder: with recipe.toml, plan.json, weights.safetensors, separable.json and report.json.
        separable: what was split, and what it gave.
        report: its checks.
    """

    folder: Path
    separable: Separable
    report: Report


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A loaded network that is being made separable.

    Attributes:
        request: what was asked for.
        options: of splitting.
        model: what was given.
        source: where it is from, resolved.
        splits: data to judge by.
        samples: what kernels are fitted to, or `None`.
        tuning: how to train, or `None`.
        home: folder of all that is kept between runs.
        progress: told where it stands.
    """

    request: SeparableRequest
    options: SeparableOptions
    model: Model
    source: Source
    splits: Splits
    samples: Samples | None
    tuning: Tuning | None
    home: Path
    progress: Progress

    def run(self) -> SeparableResult:
        """All of it, into a folder that appears when it is done.

        Raises:
            BadInputError: no layer can be split.
            CheckFailedError: no layer gets faster, the whole network does not, or it loses more
                accuracy than allowed.
        """
        request = self.request
        layers = Layers.of(self.model, self.options)
        kept_folder(self.home)
        with writing_folder(request.out, overwrite=request.overwrite, ours=OURS) as folder:
            place = folder / _MEASURED
            place.mkdir()
            bench = Bench(
                place,
                self.home / "latency",
                request.batch,
                request.threads,
                self.progress,
                request.precision,
            )
            result = self._make(folder, layers, bench if request.measure else None)
            shutil.rmtree(place)
        return result

    def _make(self, folder: Path, layers: Layers, bench: Bench | None) -> SeparableResult:
        whole = None if bench is None else bench.exported(self.model, "whole")
        if bench is not None and whole is not None:
            layers = layers.timed(bench, whole, force=self.request.force)
        plan = layers.plan
        if not plan.layers:
            raise CheckFailedError(f"{layers.nothing_text}; nothing was written")
        self.progress("splitting", None)
        part = separated(self.model, plan)
        checks: list[Check] = []
        speed = None
        if bench is not None and whole is not None:
            speed, check = self._speed(bench, whole, part)
            checks.append(check)
        before = self._judge(self.model, self.splits)
        part, fits = self._fitted(part, plan)
        split = self._judge(part, Splits(self.splits.val, None)).get(VAL)
        made, trained = self._trained(part)
        after = self._judge(made, self.splits)
        judged_checks = accuracy_checks(before, after, self.request.max_drop)
        self._check_drop(judged_checks)
        record = Separable(
            layers=layers.rows(fits),
            parameters_before=_parameters(self.model),
            parameters_after=_parameters(made),
            options=asdict(self.options),
            training=asdict(self.tuning.options) if self.tuning else {},
            speed=speed,
            val_split=None if split is None else split.value,
            epochs=len(trained.epochs) if trained else 0,
            best_epoch=0 if not trained or trained.best_epoch is None else trained.best_epoch + 1,
            seconds=trained.seconds if trained else 0.0,
            fitted=len(self.samples.rows) if self.samples else 0,
            checks=(*checks, *judged_checks),
        )
        return self._write(folder, made, plan, record)

    def _speed(self, bench: Bench, whole: Path, part: Model) -> tuple[Speed, Check]:
        """The whole network beside what was given: before the training, which may take hours.

        Raises:
            CheckFailedError: it is not faster.
        """
        found = bench.compare(whole, bench.exported(part, "part"), careful=True)
        force, threads = self.request.force, self.request.threads
        if found.share > 1 and not force:
            raise CheckFailedError(
                f"separable convolutions do not help here: the network takes {found.share:.3g}x "
                f"of its time on {found.where} with {threads} thread{'s' * (threads > 1)}; nothing "
                "was written (--force hands it over all the same)"
            )
        check = found.check(1.0)
        if force:
            check = replace(check, limit=None, verdict=Verdict.PASSED)
        return (
            Speed(
                found.whole_ns,
                found.part_ns,
                found.share,
                found.low,
                found.high,
                found.where,
                threads,
            ),
            check,
        )

    def _fitted(self, part: Model, plan: SeparablePlan) -> tuple[Model, dict[str, Fit]]:
        if self.samples is None:
            return part, {}
        from deploykit.compress.separable.refit import refitted

        module, fits = refitted(
            self.model.module,
            plan,
            self.samples,
            samples=len(self.samples.rows),
            seed=self.options.seed,
            progress=self.progress,
        )
        return replace(part, module=module.eval()), fits

    def _trained(self, part: Model) -> tuple[Model, TrainResult | None]:
        if self.tuning is None:
            return part, None
        return self.tuning.tuned(part, self.progress)

    def _judge(self, model: Model, splits: Splits) -> dict[str, Accuracy]:
        return {
            name: judged(model, data, self.request.metric, self.progress)
            for name, data in splits.named.items()
            if judgeable(data)
        }

    def _check_drop(self, checks: list[Check]) -> None:
        for check in checks:
            if check.verdict is not Verdict.PASSED:
                raise CheckFailedError(
                    f"{check.name} is {check.value:.3g} {check.unit}, and "
                    f"{self.request.max_drop:g} may be lost: take a higher rank, more epochs or "
                    "fewer layers; nothing was written"
                )

    def _write(
        self, folder: Path, made: Model, plan: SeparablePlan, record: Separable
    ) -> SeparableResult:
        from deploykit.load.modules import state_digest
        from deploykit.load.weights import write_weights

        request = self.request
        report = Report(state_digest(made.module), record.checks)
        plans = followed_by(read_plans(self.source.plans), plan)
        write_weights(folder / WEIGHTS_NAME, made.module)
        records.save(folder / SEPARABLE_NAME, record, SEPARABLE)
        records.save(folder / REPORT_NAME, report, records.REPORT)
        tables = {"data": {"train": request.train, "val": request.val, "eval": request.eval}}
        names = write_plans(folder, plans)
        text = recipe_text(request.source, request.out, plans=names, tables=tables)
        (folder / FILE_NAME).write_text(text, encoding="utf-8")
        return SeparableResult(request.out, record, report)


def _parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())
