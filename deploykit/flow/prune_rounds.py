"""Score, cut, fine-tune, repeat: each finished round is kept, so that a run can go on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deploykit.core import records
from deploykit.core.records import Schema
from deploykit.flow.cache import Cache, key_of
from deploykit.flow.prune_record import PLAN_NAME, WEIGHTS_NAME, RoundRow, Size
from deploykit.flow.prune_tune import judged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.prune.evidence import Evidence
    from deploykit.compress.prune.footprint import Kept
    from deploykit.compress.prune.graph import Program
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.ranking import Scores
    from deploykit.compress.prune.select import Selection, Steps
    from deploykit.compress.prune.structure import Structure
    from deploykit.core.progress import Progress
    from deploykit.core.types import Model
    from deploykit.flow.prune_tune import Tuning
    from deploykit.load.data import Array, Data

_ROW = Schema("deploykit/prune-round")
_ROW_NAME = "round.json"


@dataclass(frozen=True, slots=True, eq=False)
class Cutting:
    """What is cut the same way in every round.

    Attributes:
        options: how.
        steps: what groups may keep, by name.
        evidence: for criteria that look at data, or `None`.
        kept: channels that groups keep in the end, where that is planned; else `None`, and the
            ratio decides.
    """

    options: PruneOptions
    steps: Steps
    evidence: Evidence | None
    kept: Kept | None = None

    def scores(self, program: Program, structure: Structure) -> Scores:
        """Importance of every channel."""
        from deploykit.compress.prune.score import score

        return score(
            program.module,
            structure,
            self.options.criterion,
            evidence=self.evidence,
            seed=self.options.seed,
        )

    def selection(
        self,
        program: Program,
        structure: Structure,
        scores: Scores,
        ratio: float,
        cost: Callable[[Kept], float] | None = None,
    ) -> Selection:
        """Which channels go for a ratio."""
        from deploykit.compress.prune.cost import macs_of
        from deploykit.compress.prune.select import select

        return select(
            structure,
            scores,
            replace(self.options, ratio=ratio),
            shapes=shapes_of(program),
            macs=macs_of(program),
            steps=self.steps,
            cost=cost,
        )

    def planned(
        self, structure: Structure, scores: Scores, whole: Mapping[str, int], part: float
    ) -> dict[str, Array]:
        """The least important channels, so that a part of the planned way is gone.

        Args:
            structure: as it is now.
            scores: of its channels.
            whole: channels of each group before the first round.
            part: of the way, 0 to 1.
        """
        assert self.kept is not None, "only where counts are planned"
        removed: dict[str, Array] = {}
        for group in structure.free:
            if group.name not in self.kept or group.name not in scores:
                continue
            before, after = whole[group.name], self.kept[group.name]
            gone = group.channels - (before - round((before - after) * part))
            if gone > 0:
                order = np.argsort(scores[group.name], kind="stable")
                removed[group.name] = np.sort(order[:gone])
        return removed


def shapes_of(program: Program) -> dict[str, tuple[int, ...]]:
    """Of every learnt parameter that the network uses, each once."""
    import torch

    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in program.tensors.items():
        if isinstance(tensor, torch.nn.Parameter):
            found.setdefault(tensor.data_ptr() or id(tensor), (name, tuple(tensor.shape)))
    return dict(found.values())


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

    def run(self, model: Model, rounds: int, is_allowed: Callable[[Stand], bool]) -> Stand | None:
        """The last round's result; of the rounds that were allowed, where one was not.

        `None` where the first was not.
        """
        from deploykit.compress.prune.plan import Plan

        best: Stand | None = None
        stand = Stand(model, Plan(heads=self.cutting.options.heads))
        whole: dict[str, int] = {}
        for number in range(rounds):
            stand = self._round(stand, number, rounds, whole)
            if not is_allowed(stand):
                break
            best = stand
        return best

    def _round(self, stand: Stand, number: int, rounds: int, whole: dict[str, int]) -> Stand:
        from deploykit.compress.prune.analyse import analyse
        from deploykit.compress.prune.cut import compose, cut
        from deploykit.compress.prune.graph import program_of
        from deploykit.load.modules import state_digest

        self.progress(f"round {number + 1} of {rounds}: analysing", None)
        program = program_of(stand.model)
        structure = analyse(program, self.cutting.options.heads)
        if not whole:
            whole.update({group.name: group.channels for group in structure.groups})
        state = state_digest(stand.model.module)
        key = key_of(self.key, "round", number, rounds, state, self.cutting.kept)

        def make(folder: Path) -> None:
            step, size = self._choose(program, structure, number, rounds, whole)
            cut_module = cut(program, step).eval()
            small = replace(stand.model, module=cut_module)
            self._finish(folder, small, compose(stand.plan, step), size)

        def read(folder: Path) -> tuple[Plan, dict[str, object], RoundRow]:
            return _read(folder)

        (plan, weights, row), _ = self.cache.get_or_make(key, make, read)
        step = _rest(plan, stand.plan)
        module = cut(program, step).eval()
        module.load_state_dict(weights)
        model = replace(stand.model, module=module)
        found = None
        if self.val is not None:
            found = judged(model, self.val, self.metric, self.progress)
        row = replace(row, val_after=found.value if found else None)
        return Stand(model, plan, (*stand.rows, row), found)

    def _choose(
        self,
        program: Program,
        structure: Structure,
        number: int,
        rounds: int,
        whole: Mapping[str, int],
    ) -> tuple[Plan, Size]:
        """What goes in this round, and what is left then."""
        from deploykit.compress.prune.cost import macs_of
        from deploykit.compress.prune.cut import plan_of
        from deploykit.compress.prune.footprint import footprint

        scores = self.cutting.scores(program, structure)
        if self.cutting.kept is None:
            # Each round leaves the same share of what the one before left.
            ratio = 1 - (1 - self.cutting.options.ratio) ** (1 / rounds)
            selection = self.cutting.selection(program, structure, scores, ratio)
            removed: dict[str, Array] = {**selection.removed}
        else:
            removed = self.cutting.planned(structure, scores, whole, (number + 1) / rounds)
        sizes = footprint(structure.free, shapes_of(program))
        kept = {g.name: g.channels - len(removed.get(g.name, ())) for g in structure.free}
        size = Size(sizes.parameters(kept), sizes.macs(kept, macs_of(program)))
        shapes = {name: tuple(tensor.shape) for name, tensor in program.tensors.items()}
        return plan_of(structure, removed, shapes), size

    def _finish(self, folder: Path, model: Model, plan: Plan, size: Size) -> None:
        """Fine-tune and keep."""
        from deploykit.compress.prune.plan import PLAN

        row = RoundRow(size)
        if self.tuning is not None:
            model, result = self.tuning.tuned(model, self.progress)
            row = RoundRow(
                size,
                val_before=result.start_accuracy,
                epochs=len(result.epochs),
                seconds=result.seconds,
            )
        save_weights(folder / WEIGHTS_NAME, model)
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
    return Plan(tuple(cuts), (), plan.heads)


def save_weights(path: Path, model: Model) -> None:
    """All tensors of a network, each once.

    Raises:
        EnvironmentFailedError: the file cannot be written.
    """
    from safetensors.torch import save

    from deploykit.core.records import writing

    state = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.module.state_dict().items()
    }
    with writing(path) as file:
        file.write(save(state))
