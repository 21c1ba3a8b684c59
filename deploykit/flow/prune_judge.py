"""What a pruning is judged by, and its record: figures before and after, beside their limits."""

from __future__ import annotations

from dataclasses import replace
from math import inf, prod
from typing import TYPE_CHECKING

from deploykit.check.accuracy import POINTS, at_most, drop
from deploykit.compress.prune.options import PruneOptions
from deploykit.core.errors import CheckFailedError
from deploykit.core.report import Check, Verdict
from deploykit.flow.prune_record import GroupRow, Pruning, Size
from deploykit.flow.prune_rounds import shapes_of
from deploykit.flow.splits import VAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.check.accuracy import Accuracy
    from deploykit.compress.prune.graph import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.structure import Group, Structure
    from deploykit.core.types import TensorSpec
    from deploykit.flow.prune_latency import SideBySide
    from deploykit.flow.prune_request import LatencyAim
    from deploykit.flow.prune_rounds import Stand

_CLOSEST = "this is the closest that the limits allow"


def size_of(program: Program) -> Size:
    """Parameters that the network uses, and multiply-accumulates of its layers with weights."""
    from deploykit.compress.prune.cost import macs_of

    parameters = sum(prod(shape) for shape in shapes_of(program).values())
    return Size(parameters, float(sum(macs_of(program).values())))


def aim_text(options: PruneOptions, aim: LatencyAim | None) -> str:
    """What was asked for, in words."""
    if aim is not None:
        return f"a latency of {aim.text}"
    return f"{1 - options.ratio:.3g}x of its {options.of}"


def aim_check(options: PruneOptions, structure: Structure, stand: Stand, before: Size) -> Check:
    """How much is left of what was counted, beside what was asked for."""
    after = stand.rows[-1].size
    left = {
        "macs": after.macs / before.macs if before.macs else 1.0,
        "parameters": after.parameters / before.parameters,
        "channels": _channels_left(structure, stand.plan),
    }[options.of]
    limit = 1 - options.ratio
    met = left <= limit + 1e-9
    verdict = Verdict.PASSED if met else Verdict.FAILED
    advice = "" if met else _CLOSEST
    return Check(f"{options.of} left", verdict, left, limit=limit, unit="x", advice=advice)


def _channels_left(structure: Structure, plan: Plan) -> float:
    kept = kept_of(structure, plan)
    return sum(kept[g.name] for g in structure.free) / sum(g.channels for g in structure.free)


def kept_of(structure: Structure, plan: Plan) -> dict[str, int]:
    """How many channels of each group a plan keeps."""
    stays = {(cut.parameter, cut.dim): frozenset(cut.kept) for cut in plan.cuts}

    def kept(group: Group) -> int:
        member = group.members[0]
        left = stays.get((member.parameter, member.dim))
        rows = member.indices.tolist()
        return len(rows) if left is None else sum(left.issuperset(row) for row in rows)

    return {group.name: kept(group) for group in structure.groups}


def latency_check(found: SideBySide, aim: LatencyAim | None, asked: str) -> Check:
    """Never slower than what was given; within the aim where there is one.

    Raises:
        CheckFailedError: it is slower.
    """
    if found.share > 1:
        raise CheckFailedError(
            f"pruning does not help here: cut to {asked} the network takes {found.share:.3g}x of "
            "its time on ort-cpu; nothing was written"
        )
    limit = 1.0 if aim is None else aim.share_of(found.whole_ns)
    met = found.share <= limit
    low, high = found.low, found.high
    return Check(
        f"latency on ort-cpu, of the original's {found.whole_ns / 1e6:.4g} ms",
        Verdict.PASSED if met else Verdict.FAILED,
        found.share,
        None if low is None or high is None else (low, high),
        limit,
        "x",
        "" if met else _CLOSEST,
    )


def accuracy_checks(
    before: Mapping[str, Accuracy], after: Mapping[str, Accuracy], max_drop: float | None
) -> list[Check]:
    """Accuracy before and after on each split, and what was lost, paired by sample."""
    checks = []
    for name, was in before.items():
        now = after[name]
        checks += [_figure(f"before {name}", was), _figure(f"after {name}", now)]
        limit = max_drop if name == VAL else None
        title = f"{now.metric.name} lost {name}: {now.data}"
        lost = at_most(title, drop(was, now), inf if limit is None else limit, points=now.is_share)
        checks.append(replace(lost, limit=limit))
    return checks


def _figure(said: str, found: Accuracy) -> Check:
    scale = POINTS if found.is_share else 1.0
    span = found.interval()
    return Check(
        f"{found.metric.name} {said}: {found.data}",
        Verdict.PASSED,
        found.value * scale,
        span and (span[0] * scale, span[1] * scale),
        unit="%" if found.is_share else "",
    )


def oracle_check(
    program: Program, structure: Structure, plan: Plan, inputs: Sequence[TensorSpec]
) -> Check:
    """The proof in float64, of everything that is not approximate."""
    from deploykit.compress.prune.oracle import agreement
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
) -> Pruning:
    """The record."""
    kept = kept_of(structure, stand.plan)
    rows = tuple(
        GroupRow(g.name, g.channels, kept[g.name], g.exactness.value, g.why, g.locked)
        for g in structure.groups
    )
    chosen = {name: getattr(options, name) for name in PruneOptions.__dataclass_fields__}
    return Pruning(asked, before, stand.rows[-1].size, rows, stand.rows, chosen, align)
