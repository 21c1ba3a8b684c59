"""What a pruning is judged by, and its record: figures before and after, beside their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.check.accuracy import reported
from deploykit.compress.prune.choice.candidates import candidates
from deploykit.compress.prune.options import PruneOptions
from deploykit.core.errors import CheckFailedError
from deploykit.core.report import Check, Verdict
from deploykit.flow.accuracy import lost_check
from deploykit.flow.prune.record import GroupRow, Pruning
from deploykit.flow.prune.size import counted, kept_of
from deploykit.flow.splits import VAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.structure import Structure
    from deploykit.core.types import TensorSpec
    from deploykit.flow.prune.loop import LatencyAim
    from deploykit.flow.prune.record import BlockRow, Size
    from deploykit.flow.prune.rounds import Stand
    from deploykit.flow.side_by_side import SideBySide

_CLOSEST = "this is the closest that the limits allow"
_ROUNDING = 1e-9


def aim_text(options: PruneOptions, aim: LatencyAim | None) -> str:
    """What was asked for, in words."""
    if aim is not None:
        return f"a latency of {aim.text}"
    return f"{1 - options.ratio:.3g}x of its {options.of}"


def aim_check(options: PruneOptions, structure: Structure, stand: Stand, before: Size) -> Check:
    """How much is left of what was counted, beside what was asked for."""
    if options.of == "channels":
        kept = kept_of(structure, stand.plan)
        groups = candidates(structure, options.exclude, options.least_exact)
        left = sum(kept[g.name] for g in groups) / sum(g.channels for g in groups)
    else:
        left = counted(options, stand.rows[-1].size, structure) / counted(
            options, before, structure
        )
    limit = 1 - options.ratio
    met = left <= limit + _ROUNDING
    verdict = Verdict.PASSED if met else Verdict.FAILED
    advice = "" if met else _CLOSEST
    return Check(f"{options.of} left", verdict, left, limit=limit, unit="x", advice=advice)


def latency_check(found: SideBySide, aim: LatencyAim | None, asked: str) -> Check:
    """Never slower than what was given; within the aim where there is one.

    Raises:
        CheckFailedError: it is slower.
    """
    if found.share > 1:
        raise CheckFailedError(
            f"pruning does not help here: cut to {asked} the network takes {found.share:.3g}x of "
            f"its time on {found.where}; nothing was written"
        )
    limit = 1.0 if aim is None else aim.share_of(found.whole_ns)
    return found.check(limit, advice=_CLOSEST)


def accuracy_checks(
    before: Mapping[str, Accuracy], after: Mapping[str, Accuracy], max_drop: float | None
) -> list[Check]:
    """Accuracy before and after on each split, and what was lost, paired by sample."""
    checks = []
    for name, was in before.items():
        now = after[name]
        for said, found in (("before", was), ("after", now)):
            checks.append(reported(f"{found.metric.name} {said} {name}: {found.data}", found))
        title = f"{now.metric.name} lost {name}: {now.data}"
        checks.append(lost_check(title, was, now, max_drop if name == VAL else None))
    return checks


def oracle_check(
    program: Program, structure: Structure, plan: Plan, inputs: Sequence[TensorSpec]
) -> Check:
    """The proof in float64, of everything that is not approximate."""
    from deploykit.compress.prune.cutting.oracle import agreement
    from deploykit.compress.prune.plan import without
    from deploykit.compress.prune.structure import Exactness

    approximate = [g for g in structure.free if g.exactness is Exactness.APPROXIMATE]
    found = agreement(program, without(plan, approximate), inputs)
    left_out = f" ({len(approximate)} approximate groups left whole)" if approximate else ""
    return Check(
        f"cut against the network with those channels at zero, float64{left_out}",
        Verdict.PASSED if found.exact else Verdict.FAILED,
        found.difference,
        limit=found.limit,
    )


def pruning_of(
    structure: Structure,
    stand: Stand,
    before: Size,
    options: PruneOptions,
    *,
    asked: str,
    align: str,
    blocks: tuple[BlockRow, ...] = (),
) -> Pruning:
    """The record."""
    kept = kept_of(structure, stand.plan)
    rows = tuple(
        GroupRow(g.name, g.channels, kept[g.name], g.exactness.value, g.why, g.locked)
        for g in structure.groups
    )
    chosen = {name: getattr(options, name) for name in PruneOptions.__dataclass_fields__}
    after = stand.rows[-1].size
    return Pruning(asked, before, after, rows, stand.rows, chosen, align, blocks)
