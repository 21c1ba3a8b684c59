"""Prune, end to end: load, analyse, aim, cut and fine-tune in rounds, judge, hand over.

A stage never measures: what is cut to a latency is chosen here, by figures of the real runtime,
and what is handed over was measured beside what was given. It is never slower.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.check.accuracy import POINTS, drop
from deploykit.compress.prune.options import NEED_DATA, NEED_LABELS, PruneOptions
from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError, MissingExtraError
from deploykit.core.extras import extra
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Report
from deploykit.flow.cache import FOLDER_NAME, Cache, key_of
from deploykit.flow.folders import PRUNING_NAME, REPORT_NAME, check_free, writing_folder
from deploykit.flow.prune_aim import Planner, read_counts
from deploykit.flow.prune_judge import (
    accuracy_checks,
    aim_check,
    aim_text,
    latency_check,
    oracle_check,
    pruning_of,
    size_of,
)
from deploykit.flow.prune_latency import Bench, steps_of
from deploykit.flow.prune_picture import draw
from deploykit.flow.prune_recipe import recipe_text
from deploykit.flow.prune_record import PICTURE_NAME, PLAN_NAME, PRUNING, WEIGHTS_NAME
from deploykit.flow.prune_request import LatencyAim, PruneRequest
from deploykit.flow.prune_rounds import Cutting, Rounds, save_weights
from deploykit.flow.prune_tune import judgeable, judged, training_data, tuning_of
from deploykit.flow.rebuild import load_model
from deploykit.flow.splits import VAL, Splits, open_splits
from deploykit.flow.tables import options_from
from deploykit.flow.train import with_weights
from deploykit.flow.verify import parity_sizes, real_feeds
from deploykit.load.artifacts import is_onnx
from deploykit.load.recipe import FILE_NAME, is_recipe, load_recipe
from deploykit.load.sources import Source, check_form, resolve

if TYPE_CHECKING:
    from deploykit.bench.alignment import Alignment
    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.prune.evidence import Evidence
    from deploykit.compress.prune.graph import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.structure import Structure
    from deploykit.core.report import Check
    from deploykit.core.types import Model
    from deploykit.flow.prune_record import Pruning
    from deploykit.flow.prune_rounds import Stand
    from deploykit.flow.prune_tune import Tuning
    from deploykit.load.data import Data

OURS = frozenset({PLAN_NAME, WEIGHTS_NAME, PRUNING_NAME, REPORT_NAME, FILE_NAME, PICTURE_NAME})
_MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What a pruning hands over.

    Attributes:
        folder: with recipe.toml, plan.json, weights.safetensors, pruning.json and report.json.
        pruning: what went and what stayed.
        report: its checks.
    """

    folder: Path
    pruning: Pruning
    report: Report


def run_prune(request: PruneRequest, progress: Progress = silent) -> PruneResult:
    """Do all of it. The network that was given is not changed.

    Raises:
        BadInputError: anything about the source, options or data that cannot be used.
        CheckFailedError: pruning cannot help here: what it would hand over is slower than what it
            was given, or loses more accuracy than allowed. Nothing is written.
        EnvironmentFailedError: it cannot be written or measured.
    """
    options = options_from(request.changes, PruneOptions, "prune")
    aim = LatencyAim.parse(request.latency) if request.latency else None
    check_free(request.out, overwrite=request.overwrite, ours=OURS)
    text = request.source.text
    if is_onnx(text):
        raise BadInputError(f"{text} is an ONNX file: pruning needs the PyTorch network")
    recipe = load_recipe(Path(text)) if is_recipe(text) else None
    if recipe is None:
        check_form(text)
    elif recipe.stages and not request.as_stage:
        raise BadInputError(
            f"{text} has stages of its own, which export runs: deploykit export {text}, or take "
            "[[stages]] out"
        )
    splits = open_splits(request.val, request.eval, recipe)
    if request.max_drop is not None and not judgeable(splits.val):
        raise BadInputError("max_drop needs data with labels to judge by; add --val DATA")
    home = (recipe.folder if recipe else request.out.absolute().parent) / FOLDER_NAME
    with extra("compress"):
        tuning = tuning_of(request, recipe, splits, home / "prune")
        evidence_text = training_data(request, recipe)
    progress("loading the network", None)
    source = resolve(request.source)
    if recipe is not None:
        source = with_weights(source, recipe, progress)
    model = load_model(source)
    for data in splits.named.values():  # data that does not fit is told before the long work
        real_feeds(model.inputs, parity_sizes(model.inputs)[0], data)
    evidence = _evidence(options, evidence_text, model, source)
    work = _Work(request, options, aim, model, source, splits, tuning, evidence, home, progress)
    return work.run()


def _evidence(
    options: PruneOptions, data: Data | None, model: Model, source: Source
) -> Evidence | None:
    """What criteria look at that need data.

    Raises:
        BadInputError: there is none.
    """
    from deploykit.compress.prune.evidence import Evidence
    from deploykit.train.losses import cross_entropy

    if options.criterion not in NEED_DATA:
        return None
    if data is None:
        raise BadInputError(
            f"criterion {options.criterion!r} looks at data, and {source.text} names none; add "
            "--train DATA, or take l2"
        )
    loss = cross_entropy() if options.criterion in NEED_LABELS else None
    return Evidence(data, model.inputs, loss, samples=options.samples, seed=options.seed)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A loaded network that is being pruned."""

    request: PruneRequest
    options: PruneOptions
    aim: LatencyAim | None
    model: Model
    source: Source
    splits: Splits
    tuning: Tuning | None
    evidence: Evidence | None
    home: Path
    progress: Progress

    def run(self) -> PruneResult:
        """All of it, into a folder that appears when it is done."""
        from deploykit.compress.prune.analyse import analyse
        from deploykit.compress.prune.graph import program_of

        self.progress("analysing", None)
        program = program_of(self.model)
        structure = analyse(program, self.options.heads)
        out, overwrite = self.request.out, self.request.overwrite
        with writing_folder(out, overwrite=overwrite, ours=OURS) as folder:
            measured = folder / _MEASURED
            measured.mkdir()
            bench = self._bench(measured) if self.request.measure else None
            result = self._prune(folder, program, structure, bench)
            shutil.rmtree(measured)
        return result

    def _bench(self, place: Path) -> Bench:
        request = self.request
        tables = self.home / "latency"
        return Bench(place, tables, request.batch, request.threads, self.progress)

    def _prune(
        self, folder: Path, program: Program, structure: Structure, bench: Bench | None
    ) -> PruneResult:
        whole = bench.exported(self.model, "whole") if bench else None
        cache = Cache(self.home / "cache")
        cutting, align = self._cutting(structure, bench, whole)
        key = self._key(cutting)
        if self.aim is not None and bench is not None and whole is not None:
            planner = Planner(
                self.aim, bench, whole, self.model, program, structure, cutting, self.progress
            )
            aim_key = key_of(key, "aim", self.aim, self.request.batch, self.request.threads)
            counts, _ = cache.get_or_make(aim_key, planner.make, read_counts)
            cutting = replace(cutting, kept=counts)
        before = self._judge(self.model, self.splits)
        val = self.splits.val if judgeable(self.splits.val) else None
        rounds = Rounds(cutting, self.tuning, val, self.request.metric, cache, key, self.progress)
        stand = rounds.run(self.model, self.request.rounds, lambda s: self._is_allowed(before, s))
        if stand is None:
            raise CheckFailedError(
                f"cut to {self._asked}, the network loses more than {self.request.max_drop:g} "
                f"points on {before[VAL].data}: ask for less, or for more rounds or epochs; "
                "nothing was written"
            )
        checks: list[Check] = []
        if bench is not None and whole is not None:
            part = bench.exported(stand.model, "part")
            found = bench.compare(whole, part, careful=True)
            checks.append(latency_check(found, self.aim, self._asked))
        size = size_of(program)
        if self.aim is None:
            checks.append(aim_check(self.options, structure, stand, size))
        checks += accuracy_checks(before, self._after(stand), self.request.max_drop)
        if self.request.check:
            self.progress("proving the cut in float64", None)
            checks.append(oracle_check(program, structure, stand.plan, self.model.inputs))
        pruning = pruning_of(structure, stand, size, self.options, asked=self._asked, align=align)
        return self._write(folder, stand, pruning, tuple(checks))

    @property
    def _asked(self) -> str:
        return aim_text(self.options, self.aim)

    def _cutting(
        self, structure: Structure, bench: Bench | None, whole: Path | None
    ) -> tuple[Cutting, str]:
        """How channels are chosen, and what their numbers are rounded to, in words."""
        if self.options.step is None and bench is not None and whole is not None:
            alignment: Alignment = bench.alignment(bench.layers(whole))
            steps = steps_of(structure.free, alignment)
            return Cutting(self.options, steps, self.evidence), f"{alignment.step}, measured"
        step = self.options.step or 1
        fixed = {group.name: step for group in structure.free}
        return Cutting(self.options, fixed, self.evidence), str(step)

    def _key(self, cutting: Cutting) -> str:
        tuning = self.tuning
        return key_of(
            __version__,
            self.model.history,
            self.options,
            cutting.steps,
            tuning and (tuning.options, tuning.data.digest()),
            self.splits.val and self.splits.val.digest(),
            self.evidence and self.evidence.data.digest(),
        )

    def _judge(self, model: Model, splits: Splits) -> dict[str, Accuracy]:
        return {
            name: judged(model, data, self.request.metric, self.progress)
            for name, data in splits.named.items()
            if judgeable(data)
        }

    def _after(self, stand: Stand) -> dict[str, Accuracy]:
        """Accuracy of the result; that on the validation data is known already."""
        known = {} if stand.accuracy is None else {VAL: stand.accuracy}
        return known | self._judge(stand.model, replace(self.splits, val=None))

    def _is_allowed(self, before: dict[str, Accuracy], stand: Stand) -> bool:
        limit = self.request.max_drop
        if limit is None or stand.accuracy is None:
            return True
        lost = drop(before[VAL], stand.accuracy)
        return lost.value * (POINTS if stand.accuracy.is_share else 1) <= limit

    def _whole_plan(self, plan: Plan) -> Plan:
        """The plan from the network that the source builds: it may have been pruned before."""
        from deploykit.compress.prune.cut import compose
        from deploykit.compress.prune.plan import PLAN
        from deploykit.compress.prune.plan import Plan as Earlier

        if self.source.plan is None:
            return plan
        return compose(records.load(self.source.plan, Earlier, PLAN), plan)

    def _write(
        self, folder: Path, stand: Stand, pruning: Pruning, checks: tuple[Check, ...]
    ) -> PruneResult:
        from deploykit.compress.prune.plan import PLAN
        from deploykit.load.modules import state_digest

        report = Report(state_digest(stand.model.module), checks)
        save_weights(folder / WEIGHTS_NAME, stand.model)
        records.save(folder / PLAN_NAME, self._whole_plan(stand.plan), PLAN)
        records.save(folder / PRUNING_NAME, pruning, PRUNING)
        records.save(folder / REPORT_NAME, report, records.REPORT)
        with suppress(MissingExtraError):  # the one file that needs another package
            draw(pruning, folder / PICTURE_NAME)
        recipe = recipe_text(self.request.source, self.request.out)
        (folder / FILE_NAME).write_text(recipe, encoding="utf-8")
        return PruneResult(self.request.out, pruning, report)
