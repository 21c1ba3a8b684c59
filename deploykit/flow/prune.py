"""Prune, end to end: load, analyse, aim, cut and fine-tune in rounds, judge, hand over.

A stage never measures: what is cut to a latency is chosen here, by figures of the real runtime,
and what is handed over was measured beside what was given. It is never slower.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploykit import __version__
from deploykit.check.accuracy import POINTS, at_most, drop
from deploykit.compress.prune.options import PruneOptions
from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.extras import extra
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Check, Report, Verdict
from deploykit.flow.cache import FOLDER_NAME, Cache, key_of
from deploykit.flow.folders import PRUNING_NAME, REPORT_NAME, check_free, writing_folder
from deploykit.flow.prune_latency import Bench, aimed, predictor, steps_of
from deploykit.flow.prune_record import (
    KEPT,
    PICTURE_NAME,
    PLAN_NAME,
    PRUNING,
    WEIGHTS_NAME,
    Counts,
    GroupRow,
    Pruning,
    Size,
)
from deploykit.flow.prune_request import LatencyAim, PruneRequest
from deploykit.flow.prune_rounds import Cutting, Rounds, Stand, save_weights, shapes_of
from deploykit.flow.prune_tune import judgeable, judged, tuning_of
from deploykit.flow.rebuild import load_model
from deploykit.flow.splits import Splits, open_splits
from deploykit.flow.tables import options_from
from deploykit.flow.train import with_weights
from deploykit.flow.verify import parity_sizes, real_feeds
from deploykit.load.artifacts import is_onnx
from deploykit.load.recipe import FILE_NAME, is_recipe, load_recipe
from deploykit.load.sources import check_form, resolve

if TYPE_CHECKING:
    from deploykit.bench.alignment import Alignment
    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.prune.graph import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.select import Selection
    from deploykit.compress.prune.structure import Structure
    from deploykit.core.types import Model
    from deploykit.flow.prune_latency import SideBySide
    from deploykit.flow.prune_tune import Tuning
    from deploykit.load.recipe import Recipe

OURS = frozenset({PLAN_NAME, WEIGHTS_NAME, PRUNING_NAME, REPORT_NAME, FILE_NAME, PICTURE_NAME})
_KEPT_NAME = "kept.json"


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
    splits = open_splits(request.val, request.eval, recipe)
    progress("loading the network", None)
    source = resolve(request.source)
    if recipe is not None:
        source = with_weights(source, recipe, progress)
    model = load_model(source)
    for data in splits.named.values():
        real_feeds(model.inputs, parity_sizes(model.inputs)[0], data)
    home = (recipe.folder if recipe else request.out.absolute().parent) / FOLDER_NAME
    with extra("compress"):
        tuning = tuning_of(request, recipe, splits, home / "prune")
    work = _Work(request, options, aim, recipe, model, splits, tuning, home, progress)
    return work.run()


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A loaded network that is being pruned."""

    request: PruneRequest
    options: PruneOptions
    aim: LatencyAim | None
    recipe: Recipe | None
    model: Model
    splits: Splits
    tuning: Tuning | None
    home: Path
    progress: Progress

    def run(self) -> PruneResult:
        from deploykit.compress.prune.analyse import analyse
        from deploykit.compress.prune.graph import program_of

        self.progress("analysing", None)
        program = program_of(self.model)
        structure = analyse(program, self.options.heads)
        with writing_folder(
            self.request.out, overwrite=self.request.overwrite, ours=OURS
        ) as folder:
            bench = self._bench(folder) if self.request.measure else None
            return self._prune(folder, program, structure, bench)

    def _bench(self, folder: Path) -> Bench:
        place = folder / "measured"
        place.mkdir()
        return Bench(
            place,
            self.home / "latency",
            self.request.batch,
            self.request.threads,
            self.progress,
        )

    def _prune(
        self, folder: Path, program: Program, structure: Structure, bench: Bench | None
    ) -> PruneResult:
        import shutil

        whole = bench.exported(self.model, "whole") if bench else None
        alignment = self._alignment(bench, whole)
        cutting = Cutting(
            self.options,
            steps_of(structure.free, alignment) if alignment else self._fixed_steps(structure),
            self._evidence(),
        )
        key = self._key(cutting)
        cache = Cache(self.home / "cache")
        if self.aim is not None:
            assert bench is not None, "the request made sure"
            assert whole is not None, "exported above"
            cutting = self._aimed(bench, whole, program, structure, cutting, cache, key)
        rounds = Rounds(
            cutting, self.tuning, self.splits.val, self.request.metric, cache, key, self.progress
        )
        before = self._judge(self.model)
        stand, done = rounds.run(
            self.model, self.request.rounds, lambda s: self._within_floor(before, s)
        )
        if stand is None:
            raise CheckFailedError(self._floor_text(before))
        checks = self._checks(program, structure, stand, before, done=done)
        if bench is not None:
            assert whole is not None, "exported above"
            part = bench.exported(stand.model, "part")
            found = bench.compare(whole, part, careful=True)
            checks = (self._latency_check(found), *checks)
            shutil.rmtree(bench.folder)
        plan = self._whole_plan(stand.plan)
        pruning = self._record(program, structure, stand, alignment)
        return self._write(folder, stand, plan, pruning, Report(_digest(stand), checks))

    def _alignment(self, bench: Bench | None, whole: Path | None) -> Alignment | None:
        if self.options.step is not None or bench is None or whole is None:
            return None
        return bench.alignment(bench.layers(whole))

    def _fixed_steps(self, structure: Structure) -> dict[str, int]:
        return {group.name: self.options.step or 1 for group in structure.free}

    def _evidence(self) -> object:
        from deploykit.compress.prune.evidence import Evidence
        from deploykit.compress.prune.options import NEED_DATA
        from deploykit.load.datasets import open_data
        from deploykit.train.losses import cross_entropy

        if self.options.criterion not in NEED_DATA:
            return None
        in_recipe = self.recipe.data.train if self.recipe else ""
        text = self.request.train or in_recipe
        if not text:
            raise BadInputError(
                f"criterion {self.options.criterion!r} looks at data; add --train DATA, or take l2"
            )
        base = None if self.request.train or self.recipe is None else self.recipe.folder
        return Evidence(
            open_data(text, base),
            self.model.inputs,
            cross_entropy(),
            samples=self.options.samples,
            seed=self.options.seed,
        )

    def _key(self, cutting: Cutting) -> str:
        tuning = self.tuning
        return key_of(
            __version__,
            self.model.history,
            self.options,
            cutting.steps,
            tuning and (tuning.options, tuning.data.digest()),
            self.splits.val and self.splits.val.digest(),
            self.request.metric,
        )

    def _aimed(
        self,
        bench: Bench,
        whole: Path,
        program: Program,
        structure: Structure,
        cutting: Cutting,
        cache: Cache,
        key: str,
    ) -> Cutting:
        """Cutting with the counts that the latency asks for; decided once, then kept."""
        from deploykit.compress.prune.candidates import candidates
        from deploykit.compress.prune.cut import cut, plan_of
        from deploykit.compress.prune.footprint import footprint

        assert self.aim is not None, "the caller made sure"
        aim = self.aim

        def make(folder: Path) -> None:
            table = bench.table(bench.layers(whole))
            groups = candidates(structure, self.options.exclude, self.options.least_exact)
            cost = predictor(table, footprint(groups, shapes_of(program)))
            scores = cutting.scores(program, structure)
            shapes = {name: tuple(t.shape) for name, t in program.tensors.items()}

            def choose(left: float) -> Selection:
                return cutting.selection(program, structure, scores, 1 - left, cost)

            def try_out(selection: Selection) -> SideBySide:
                plan = plan_of(structure, selection.removed, shapes)
                small = replace(self.model, module=cut(program, plan).eval())
                return bench.compare(whole, bench.exported(small, "part"))

            share = aim.share
            if share is None:
                share = aim.share_of(bench.compare(whole, whole).whole_ns)
                if share >= 1:
                    raise BadInputError(f"the network is already within {aim.text}")
            selection, _ = aimed(share, choose, try_out, self.progress)
            kept = {
                group.name: group.channels - len(selection.removed.get(group.name, ()))
                for group in structure.free
            }
            records.save(folder / _KEPT_NAME, Counts(kept), KEPT)

        def read(folder: Path) -> dict[str, int]:
            return dict(records.load(folder / _KEPT_NAME, Counts, KEPT).kept)

        aim_key = key_of(key, "aim", aim, self.request.batch, self.request.threads)
        kept, _ = cache.get_or_make(aim_key, make, read)
        return replace(cutting, kept=kept)

    def _judge(self, model: Model) -> dict[str, Accuracy]:
        return {
            name: judged(model, data, self.request.metric, self.progress)
            for name, data in self.splits.named.items()
            if judgeable(data)
        }

    def _within_floor(self, before: dict[str, Accuracy], stand: Stand) -> bool:
        limit = self.request.max_drop
        if limit is None or stand.accuracy is None:
            return True
        lost = drop(before["val"], stand.accuracy)
        return lost.value * (POINTS if stand.accuracy.is_share else 1) <= limit

    def _floor_text(self, before: dict[str, Accuracy]) -> str:
        return (
            f"pruning to {self._aim_text()} loses more than {self.request.max_drop} points on "
            f"{before['val'].data}: ask for less, or for more --rounds or --epochs; nothing was "
            "written"
        )

    def _aim_text(self) -> str:
        if self.aim is not None:
            return f"a latency of {self.aim.text}"
        return f"{1 - self.options.ratio:.3g}x of its {self.options.of}"

    def _checks(
        self,
        program: Program,
        structure: Structure,
        stand: Stand,
        before: dict[str, Accuracy],
        *,
        done: bool,
    ) -> tuple[Check, ...]:
        checks = []
        if self.aim is None:
            checks.append(self._aim_check(program, stand, done=done))
        after = self._judge(stand.model)
        for name, was in before.items():
            now = after[name]
            scale = POINTS if now.is_share else 1.0
            unit = "%" if now.is_share else ""
            for said, found in (("before", was), ("after", now)):
                span = found.interval()
                checks.append(
                    Check(
                        f"{found.metric.name} {said} {name}: {found.data}",
                        Verdict.PASSED,
                        found.value * scale,
                        span and (span[0] * scale, span[1] * scale),
                        unit=unit,
                    )
                )
            limit = self.request.max_drop if name == "val" else None
            title = f"{now.metric.name} lost {name}: {now.data}"
            lost = at_most(title, drop(was, now), limit if limit is not None else np.inf,
                           points=now.is_share)  # fmt: skip
            checks.append(lost if limit is not None else replace(lost, limit=None))
        if self.request.check:
            checks.append(self._oracle_check(program, structure, stand))
        return tuple(checks)

    def _aim_check(self, program: Program, stand: Stand, *, done: bool) -> Check:
        before, after = self._sizes(program, stand)
        of = self.options.of
        if of == "channels":
            left = 1 - self.options.ratio if done else 1.0
        else:
            left = (
                after.macs / before.macs if of == "macs" else after.parameters / before.parameters
            )
        limit = 1 - self.options.ratio
        met = done and left <= limit + 1e-9
        return Check(
            f"{of} left",
            Verdict.PASSED if met else Verdict.FAILED,
            left,
            limit=limit,
            unit="x",
            advice="" if met else "this is the closest that the limits allow",
        )

    def _oracle_check(self, program: Program, structure: Structure, stand: Stand) -> Check:
        from deploykit.compress.prune.oracle import agreement

        self.progress("proving the cut in float64", None)
        found = agreement(program, stand.plan, self.model.inputs)
        return Check(
            "cut against the network with those channels at zero, float64",
            Verdict.PASSED if found.exact else Verdict.FAILED,
            found.difference,
            limit=found.limit,
        )

    def _latency_check(self, found: SideBySide) -> Check:
        limit = 1.0 if self.aim is None else self.aim.share_of(found.whole_ns)
        if found.share > 1:
            raise CheckFailedError(
                f"pruning does not help here: the network to {self._aim_text()} takes "
                f"{found.share:.3g}x of the original's time on ort-cpu; nothing was written"
            )
        met = found.share <= limit
        low, high = found.low, found.high
        return Check(
            f"latency on ort-cpu against the original's {found.whole_ns / 1e6:.4g} ms",
            Verdict.PASSED if met else Verdict.FAILED,
            found.share,
            None if low is None or high is None else (low, high),
            limit,
            "x",
            "" if met else "this is the closest that the limits allow",
        )

    def _sizes(self, program: Program, stand: Stand) -> tuple[Size, Size]:
        from deploykit.compress.prune.cost import macs_of
        from deploykit.compress.prune.graph import program_of

        def size(p: Program) -> Size:
            shapes = shapes_of(p).values()
            return Size(int(sum(np.prod(s) for s in shapes)), float(sum(macs_of(p).values())))

        return size(program), size(program_of(stand.model))

    def _whole_plan(self, plan: Plan) -> Plan:
        """The plan from the network that the source builds: it may have been pruned before."""
        from deploykit.compress.prune.cut import compose
        from deploykit.compress.prune.plan import PLAN
        from deploykit.compress.prune.plan import Plan as PlanRecord

        source = resolve(self.request.source)
        if source.plan is None:
            return plan
        return compose(records.load(source.plan, PlanRecord, PLAN), plan)

    def _record(
        self, program: Program, structure: Structure, stand: Stand, alignment: Alignment | None
    ) -> Pruning:
        before, after = self._sizes(program, stand)
        stays = {(cut.parameter, cut.dim): frozenset(cut.kept) for cut in stand.plan.cuts}
        rows = []
        for group in structure.groups:
            member = group.members[0]
            left = stays.get((member.parameter, member.dim))
            kept = sum(
                left is None or all(i in left for i in row) for row in member.indices.tolist()
            )
            rows.append(
                GroupRow(
                    group.name, group.channels, kept, group.exactness.value, group.why, group.locked
                )
            )
        options = {
            name: value if isinstance(value, str | int | float | bool) else tuple(map(str, value))
            for name in PruneOptions.__dataclass_fields__
            if (value := getattr(self.options, name)) is not None
        }
        align = f"{alignment.step}, measured" if alignment else str(self.options.step or 1)
        return Pruning(self._aim_text(), before, after, tuple(rows), stand.rows, options, align)

    def _write(
        self, folder: Path, stand: Stand, plan: Plan, pruning: Pruning, report: Report
    ) -> PruneResult:
        from deploykit.compress.prune.plan import PLAN

        save_weights(folder / WEIGHTS_NAME, stand.model)
        records.save(folder / PLAN_NAME, plan, PLAN)
        records.save(folder / PRUNING_NAME, pruning, PRUNING)
        records.save(folder / REPORT_NAME, report, records.REPORT)
        (folder / FILE_NAME).write_text(self._recipe_text(), encoding="utf-8")
        return PruneResult(self.request.out, pruning, report)

    def _recipe_text(self) -> str:
        from deploykit.flow.prune_recipe import recipe_text

        return recipe_text(self.request.source, self.request.out)


def _digest(stand: Stand) -> str:
    from deploykit.load.modules import state_digest

    return state_digest(stand.model.module)
