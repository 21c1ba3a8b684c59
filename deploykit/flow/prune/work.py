"""A loaded network on its way to being smaller: aim, cut in rounds, judge, write."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.core import records
from deploykit.core.errors import CheckFailedError, MissingExtraError
from deploykit.core.report import Report, Verdict
from deploykit.flow.accuracy import lost_check
from deploykit.flow.cache import FOLDER_NAME, Cache, kept_folder, key_of
from deploykit.flow.derived import recipe_text
from deploykit.flow.folders import (
    PLAN_NAMES,
    PRUNING_NAME,
    REPORT_NAME,
    WEIGHTS_NAME,
    writing_folder,
)
from deploykit.flow.plans import followed_by, read_plans, write_plans
from deploykit.flow.prune.aim import Planner, read_counts
from deploykit.flow.prune.cutting import Cutting
from deploykit.flow.prune.depth import Base, shallower
from deploykit.flow.prune.judge import (
    accuracy_checks,
    aim_check,
    aim_text,
    latency_check,
    oracle_check,
    pruning_of,
)
from deploykit.flow.prune.latency import Bench, steps_of
from deploykit.flow.prune.picture import draw
from deploykit.flow.prune.record import PICTURE_NAME, PRUNING
from deploykit.flow.prune.rounds import Rounds, Stand, Way
from deploykit.flow.prune.size import network_of, size_of
from deploykit.flow.prune.tune import judgeable, judged
from deploykit.flow.splits import VAL, Splits
from deploykit.load.recipe import FILE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.bench.alignment import Alignment
    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.prune.choice.evidence import Evidence
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.compress.prune.structure import Structure
    from deploykit.core.progress import Progress
    from deploykit.core.report import Check
    from deploykit.core.types import Model
    from deploykit.flow.prune.loop import LatencyAim
    from deploykit.flow.prune.record import Pruning
    from deploykit.flow.prune.request import PruneRequest
    from deploykit.flow.prune.size import Network
    from deploykit.flow.prune.tune import Tuning
    from deploykit.flow.side_by_side import SideBySide
    from deploykit.load.sources import Source

OURS = frozenset(
    {*PLAN_NAMES, WEIGHTS_NAME, PRUNING_NAME, REPORT_NAME, FILE_NAME, PICTURE_NAME, FOLDER_NAME}
)
"""What a pruned network's folder may hold; the last is what export keeps beside its recipe."""
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


@dataclass(frozen=True, slots=True)
class _Scales:
    """Where latencies are taken, and the network that was given, as an artifact."""

    bench: Bench
    whole: Path

    def share(self, model: Model, *, careful: bool = False) -> SideBySide:
        """A network beside the one that was given."""
        return self.bench.compare(self.whole, self.bench.exported(model, "part"), careful=careful)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A loaded network that is being pruned.

    Attributes:
        request: what was asked for.
        options: of pruning.
        aim: the latency that was asked for, or `None`.
        model: what was given.
        source: where it is from, resolved.
        splits: data to judge by.
        tuning: how to recover, or `None`.
        evidence: for criteria that look at data, or `None`.
        on_blocks: likewise, for blocks.
        home: folder of all that is kept between runs.
        progress: told where it stands.
    """

    request: PruneRequest
    options: PruneOptions
    aim: LatencyAim | None
    model: Model
    source: Source
    splits: Splits
    tuning: Tuning | None
    evidence: Evidence | None
    on_blocks: Evidence | None
    home: Path
    progress: Progress

    def run(self) -> PruneResult:
        """All of it, into a folder that appears when it is done."""
        kept_folder(self.home)
        self.progress("analysing", None)
        network = network_of(self.model, self.options)
        out, overwrite = self.request.out, self.request.overwrite
        with writing_folder(out, overwrite=overwrite, ours=OURS) as folder:
            measured = folder / _MEASURED
            measured.mkdir()
            result = self._prune(folder, network, self._scales(measured))
            shutil.rmtree(measured)
        return result

    def _scales(self, place: Path) -> _Scales | None:
        request = self.request
        if not request.measure:
            return None
        tables = self.home / "latency"
        bench = Bench(
            place,
            tables,
            request.batch,
            request.threads,
            self.progress,
            request.precision,
        )
        return _Scales(bench, bench.exported(self.model, "whole"))

    def _prune(self, folder: Path, network: Network, scales: _Scales | None) -> PruneResult:
        from deploykit.compress.prune.plan import Plan

        before = self._judge(self.model, self.splits)
        base = Base(Stand(self.model, Plan(heads=self.options.heads)), network)
        if self.options.depth:
            base = self._without_blocks(base, scales)
        structure = base.network.structure
        cutting, align = self._cutting(structure, scales)
        stand = self._rounds_done(base, cutting, scales, before)
        checks: list[Check] = []
        if scales is not None:
            found = scales.share(stand.model, careful=True)
            checks.append(latency_check(found, self.aim, self._asked))
        size = size_of(network.program)
        if self.aim is None:
            checks.append(aim_check(self.options, structure, stand, size))
        checks += accuracy_checks(before, self._after(stand), self.request.max_drop)
        if self.request.check:
            self.progress("proving the cut in float64", None)
            checks.append(oracle_check(network.program, structure, stand.plan, self.model.inputs))
        pruning = pruning_of(
            structure, stand, size, self.options, asked=self._asked, align=align, blocks=base.blocks
        )
        return self._write(folder, stand, replace(pruning, checks=tuple(checks)))

    def _rounds_done(
        self,
        base: Base,
        cutting: Cutting,
        scales: _Scales | None,
        before: dict[str, Accuracy],
    ) -> Stand:
        """After all rounds.

        Raises:
            CheckFailedError: nothing could be cut, or the first round lost too much.
        """
        scores = cache(lambda: cutting.scores(base.network))
        if base.ratio is not None and not base.done:
            cutting = replace(cutting, options=replace(self.options, ratio=base.ratio))
        if self.aim is not None and scales is not None and not base.done:
            planner = Planner(
                self.aim, scales.bench, scales.whole, base.network, scores, cutting, self.progress
            )
            key = key_of(self._key(cutting), "aim", self.aim, scales.bench.circumstances)
            counts, _ = self._cache.get_or_make(key, planner.make, read_counts)
            cutting = replace(cutting, kept=counts)
        way = Way(
            base.stand,
            base.network,
            0 if base.done else self.request.rounds,
            scores,
            lambda model: self._refuse_slower(model, scales),
        )
        stand = self._rounds(cutting).run(way, lambda s: self._is_allowed(before, s))
        if stand is None:
            raise CheckFailedError(
                f"cut to {self._asked}, the network loses more than {self.request.max_drop:g} "
                f"points on {before[VAL].data}: ask for less, or for more rounds or epochs; "
                "nothing was written"
            )
        if not (stand.plan.cuts or stand.plan.blocks):
            raise CheckFailedError(
                f"no channel can go on the way to {self._asked}: align {cutting.options.align} "
                f"and max_ratio {cutting.options.max_ratio:g} leave every group whole; nothing "
                "was written"
            )
        return stand

    def _without_blocks(self, base: Base, scales: _Scales | None) -> Base:
        """The round in which blocks go, and what is left to do then."""
        cutting, _ = self._cutting(base.network.structure, scales)
        rest = shallower(self._rounds(cutting), base, self.on_blocks)
        if self.aim is None or scales is None:
            return rest
        found = scales.share(rest.stand.model)
        within = found.share <= self.aim.share_of(found.whole_ns)
        return replace(rest, done=within, ratio=None)

    def _refuse_slower(self, model: Model, scales: _Scales | None) -> None:
        """Before the last training, which may take hours: what is clearly slower ends here.

        To a latency it was cut by measurements, and at the end everything is measured again.

        Raises:
            CheckFailedError: it is slower than what was given.
        """
        if scales is None or self.aim is not None:
            return
        found = scales.share(model)
        if found.low is not None and found.low > 1:
            latency_check(found, None, self._asked)

    def _rounds(self, cutting: Cutting) -> Rounds:
        val = self.splits.val if judgeable(self.splits.val) else None
        key = self._key(cutting)
        return Rounds(
            cutting, self.tuning, val, self.request.metric, self._cache, key, self.progress
        )

    @property
    def _cache(self) -> Cache:
        return Cache(self.home / "cache")

    @property
    def _asked(self) -> str:
        return aim_text(self.options, self.aim)

    def _cutting(self, structure: Structure, scales: _Scales | None) -> tuple[Cutting, str]:
        """How channels are chosen, and what their numbers are rounded to, in words."""
        if self.options.step is None and scales is not None:
            layers = scales.bench.layers(scales.whole)
            alignment: Alignment = scales.bench.alignment(layers)
            steps = steps_of(structure.free, alignment)
            said = f"{alignment.step}, measured in {scales.bench.precision}"
            return Cutting(self.options, steps, self.evidence), said
        step = self.options.step or 1
        fixed = {group.name: step for group in structure.free}
        return Cutting(self.options, fixed, self.evidence), str(step)

    def _key(self, cutting: Cutting) -> str:
        """Of everything that rounds depend on."""
        tuning = self.tuning
        return key_of(
            __version__,
            self.model.history,
            cutting.options,
            cutting.steps,
            tuning and (tuning.options, tuning.soft, tuning.data.digest()),
            self.splits.val and self.splits.val.digest(),
            self.evidence and self.evidence.data.digest(),
            self.on_blocks and self.on_blocks.data.digest(),
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
        return lost_check("", before[VAL], stand.accuracy, limit).verdict is Verdict.PASSED

    def _write(self, folder: Path, stand: Stand, pruning: Pruning) -> PruneResult:
        from deploykit.load.modules import state_digest
        from deploykit.load.weights import write_weights

        plan = replace(stand.plan, keeps_class=self.options.keep_class)
        # From the network that the source builds, which may have been changed before.
        plans = write_plans(folder, followed_by(read_plans(self.source.plans), plan))
        report = Report(state_digest(stand.model.module), pruning.checks)
        write_weights(folder / WEIGHTS_NAME, stand.model.module)
        records.save(folder / PRUNING_NAME, pruning, PRUNING)
        records.save(folder / REPORT_NAME, report, records.REPORT)
        with suppress(MissingExtraError):  # the one file that needs another package
            draw(pruning, folder / PICTURE_NAME)
        recipe = recipe_text(self.request.source, self.request.out, plans=plans)
        (folder / FILE_NAME).write_text(recipe, encoding="utf-8")
        return PruneResult(self.request.out, pruning, report)
