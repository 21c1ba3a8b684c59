"""Score, cut, fine-tune, repeat: each finished round is kept, so that a run can go on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from deploykit.core import records
from deploykit.core.records import Schema
from deploykit.flow.cache import Cache, key_of
from deploykit.flow.folders import PLAN_NAME, WEIGHTS_NAME
from deploykit.flow.prune.record import RoundRow, Size
from deploykit.flow.prune.size import counted, network_of, shapes_of, size_of, smaller
from deploykit.flow.prune.tune import judged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.prune.choice.ranking import Scores
    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.compress.prune.plan import Plan
    from deploykit.core.progress import Progress
    from deploykit.core.types import Model
    from deploykit.flow.prune.cutting import Cutting
    from deploykit.flow.prune.size import Network
    from deploykit.flow.prune.tune import Tuning
    from deploykit.load.data import Array, Data

_ROW = Schema("deploykit/prune-round")
_ROW_NAME = "round.json"
TOP_1 = "top-1"
"""What training judges by."""


@dataclass(frozen=True, slots=True, eq=False)
class Stand:
    """How far a pruning has come.

    Attributes:
        model: as it is now.
        plan: what was cut of the network that the pruning began with.
        rows: of the rounds.
        accuracy: on the validation data, or `None`.
    """

    model: Model
    plan: Plan
    rows: tuple[RoundRow, ...] = ()
    accuracy: Accuracy | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """From where the rounds begin to the aim.

    Attributes:
        stand: where they begin.
        start: the network there.
        rounds: in how many steps.
        scores: of the network's channels; asked for once at most.
        try_out: told what will be trained last, before it is: the place to refuse it.
    """

    stand: Stand
    start: Network
    rounds: int
    scores: Callable[[], Scores]
    try_out: Callable[[Model], None]

    @property
    def whole(self) -> dict[str, int]:
        """Channels of each group at the start."""
        return {group.name: group.channels for group in self.start.structure.groups}

    def least(self, max_ratio: float) -> dict[str, int]:
        """Channels that groups keep to the end: no round counts its share anew."""
        return {name: ceil((1 - max_ratio) * n - 1e-9 * n) for name, n in self.whole.items()}

    def ratio(self, network: Network, number: int, options: PruneOptions) -> float:
        """The share of what is there now that goes in a round, 0 where enough went before.

        Each round leaves the same share of what the one before should have left, so that what
        rounding took too much of is not taken again.
        """
        start, now = (
            counted(options, size_of(n.program), n.structure) for n in (self.start, network)
        )
        left = start * (1 - options.ratio) ** ((number + 1) / self.rounds)
        return max(0.0, 1 - left / now) if now else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """The loop.

    Attributes:
        cutting: how to cut.
        tuning: how to recover, or `None`.
        val: data with labels that decides, or `None`.
        metric: how it is scored.
        cache: where finished rounds are kept.
        key: of everything that all rounds depend on.
        progress: told where it stands.
    """

    cutting: Cutting
    tuning: Tuning | None
    val: Data | None
    metric: str
    cache: Cache
    key: str
    progress: Progress

    def run(self, way: Way, is_allowed: Callable[[Stand], bool]) -> Stand | None:
        """The last round's result; of the rounds that were allowed, where one was not.

        `None` where the first was not.
        """
        stand, best = way.stand, None
        if stand.rows:  # blocks went before channels
            if not is_allowed(stand):
                return None
            best = stand
        for number in range(way.rounds):
            stand = self._round(stand, number, way)
            if not is_allowed(stand):
                break
            best = stand
        return best

    def _round(self, stand: Stand, number: int, way: Way) -> Stand:
        network = way.start
        if number:
            self.progress(f"round {number + 1} of {way.rounds}: analysing", None)
            network = network_of(stand.model, self.cutting.options)
        name = ("round", number, way.rounds, self.cutting.kept)
        try_out = way.try_out if number + 1 == way.rounds else None
        return self.step(
            stand, network.program, name, lambda: self._choose(network, number, way), try_out
        )

    def step(
        self,
        stand: Stand,
        program: Program,
        name: tuple[object, ...],
        choose: Callable[[], tuple[Plan, Size]],
        try_out: Callable[[Model], None] | None = None,
    ) -> Stand:
        """Cut once, recover and judge; taken from the cache where it was finished before.

        Args:
            stand: how far it has come.
            program: of its network.
            name: what tells this step from others of the same run.
            choose: what goes of the network as it is, and what is left then.
            try_out: told what is about to be trained; it may refuse.
        """
        from deploykit.compress.prune.cutting.cut import compose
        from deploykit.load.modules import state_digest

        key = key_of(self.key, *name, state_digest(stand.model.module))
        keep_class = self.cutting.options.keep_class
        made: list[Model] = []  # in this process: not cut again to be read

        def make(folder: Path) -> None:
            plan, size = choose()
            small = smaller(stand.model, program, plan, keep_class=keep_class)
            made.append(small)
            if self.tuning is not None and try_out is not None:
                try_out(small)
            self._finish(folder, small, compose(stand.plan, plan), size)

        (plan, weights, row), _ = self.cache.get_or_make(key, make, _read)
        if not made:
            rest = _rest(plan, stand.plan)
            made.append(smaller(stand.model, program, rest, keep_class=keep_class))
        (model,) = made
        model.module.load_state_dict(weights)
        if self.val is None:
            return Stand(model, plan, (*stand.rows, row))
        found = judged(model, self.val, self.metric, self.progress)
        if self.tuning is None and found.metric.name == TOP_1:
            row = replace(row, val_after=found.value)
        return Stand(model, plan, (*stand.rows, row), found)

    def _choose(self, network: Network, number: int, way: Way) -> tuple[Plan, Size]:
        """What goes in this round, and what is left then."""
        from deploykit.compress.prune.analysis.cost import macs_of
        from deploykit.compress.prune.choice.footprint import footprint
        from deploykit.compress.prune.cutting.cut import plan_of

        program, structure = network.program, network.structure
        removed = self._removed(network, number, way)
        sizes = footprint(structure.free, shapes_of(program))
        kept = {g.name: g.channels - len(removed.get(g.name, ())) for g in structure.free}
        size = Size(sizes.parameters(kept), sizes.macs(kept, macs_of(program)))
        return plan_of(structure, removed, program.sizes), size

    def _removed(self, network: Network, number: int, way: Way) -> dict[str, Array]:
        """Channels that go in this round, by group."""
        options = self.cutting.options
        scores = self.cutting.scores(network) if number else way.scores()
        if self.cutting.kept is not None:
            part = (number + 1) / way.rounds
            return self.cutting.planned(network.structure, scores, way.whole, part)
        ratio = way.ratio(network, number, options)
        if not ratio:
            return {}
        least = way.least(options.max_ratio)
        return {**self.cutting.selection(network, scores, ratio, least=least).removed}

    def _finish(self, folder: Path, model: Model, plan: Plan, size: Size) -> None:
        """Fine-tune and keep."""
        from deploykit.compress.prune.plan import PLAN
        from deploykit.load.weights import write_weights

        row = RoundRow(size)
        if self.tuning is not None:
            model, result = self.tuning.tuned(model, self.progress)
            row = RoundRow(
                size,
                val_before=result.start_score,
                val_after=result.val_score,
                epochs=len(result.epochs),
                seconds=result.seconds,
            )
        write_weights(folder / WEIGHTS_NAME, model.module)
        records.save(folder / PLAN_NAME, plan, PLAN)
        records.save(folder / _ROW_NAME, row, _ROW)


def _read(folder: Path) -> tuple[Plan, dict[str, object], RoundRow]:
    from deploykit.compress.prune.plan import PLAN, Plan
    from deploykit.load.weights import read_weights

    plan = records.load(folder / PLAN_NAME, Plan, PLAN)
    row = records.load(folder / _ROW_NAME, RoundRow, _ROW)
    return plan, dict(read_weights(folder / WEIGHTS_NAME)), row


def _rest(plan: Plan, before: Plan) -> Plan:
    """What a plan cuts of what an earlier one left."""
    from deploykit.compress.prune.plan import Cut, Plan

    known = {(cut.parameter, cut.dim): cut for cut in before.cuts}
    cuts = []
    for part in plan.cuts:
        earlier = known.get((part.parameter, part.dim))
        if earlier is None:
            cuts.append(part)
        elif earlier.kept != part.kept:
            place = {index: number for number, index in enumerate(earlier.kept)}
            kept = tuple(place[index] for index in part.kept)
            cuts.append(Cut(part.parameter, part.dim, len(earlier.kept), kept))
    blocks = tuple(name for name in plan.blocks if name not in before.blocks)
    return Plan(tuple(cuts), blocks, plan.heads)
