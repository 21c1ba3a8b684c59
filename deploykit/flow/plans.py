"""The plans that lead from the network that a source builds to the one at hand, in their order.

A network that was pruned, made separable and pruned again has three: each is of what those before
it left. Two of a kind in a row become one, so that a folder has as few as will do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from deploykit.compress.exits.plan import EXITS_PLAN, ExitsPlan
from deploykit.compress.prune.plan import PLAN, Plan
from deploykit.compress.separable.plan import SEPARABLE_PLAN, SeparablePlan
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.flow.folders import PLAN_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deploykit.load.sources import Source

AnyPlan: TypeAlias = "Plan | SeparablePlan | ExitsPlan"


_SCHEMAS = {Plan: PLAN, SeparablePlan: SEPARABLE_PLAN, ExitsPlan: EXITS_PLAN}


def has_exits(source: Source) -> bool:
    """Whether the last plan of a resolved source adds exits."""
    return bool(source.plans) and isinstance(read_plan(source.plans[-1]), ExitsPlan)


def check_no_exits(source: Source, what: str) -> None:
    """Refuse a network with exits for what works on networks without.

    Args:
        source: resolved.
        what: is refused, such as "pruning".

    Raises:
        BadInputError: its last plan adds exits.
    """
    if has_exits(source):
        raise BadInputError(
            f"{source.text} has exits, and {what} comes before them: start from the network that "
            "they were added to"
        )


def read_plan(path: Path) -> AnyPlan:
    """One plan, of any kind; what it says of itself decides.

    Raises:
        BadInputError: not a plan, damaged, or of another major version.
    """
    raw = records.parse_object(records.read_bytes(path), str(path))
    if raw.get("schema") == SEPARABLE_PLAN.name:
        return records.load(path, SeparablePlan, SEPARABLE_PLAN)
    if raw.get("schema") == EXITS_PLAN.name:
        return records.load(path, ExitsPlan, EXITS_PLAN)
    return records.load(path, Plan, PLAN)


def read_plans(paths: Sequence[Path]) -> tuple[AnyPlan, ...]:
    """As `read_plan` does, each."""
    return tuple(read_plan(path) for path in paths)


def followed_by(plans: Sequence[AnyPlan], plan: AnyPlan) -> tuple[AnyPlan, ...]:
    """The way to a network, one step longer.

    Args:
        plans: that led to the network so far.
        plan: of what they left.
    """
    from deploykit.compress.prune.cutting.cut import compose

    last = plans[-1] if plans else None
    if isinstance(last, Plan) and isinstance(plan, Plan):
        return (*plans[:-1], replace(compose(last, plan), keeps_class=plan.keeps_class))
    if isinstance(last, SeparablePlan) and isinstance(plan, SeparablePlan):
        return (*plans[:-1], SeparablePlan((*last.layers, *plan.layers)))
    return (*plans, plan)


def write_plans(folder: Path, plans: Sequence[AnyPlan]) -> tuple[str, ...]:
    """Write them, and return the names of their files, in order.

    Raises:
        BadInputError: there are more than a folder may have.
    """
    if len(plans) > len(PLAN_NAMES):
        raise BadInputError(
            f"{len(plans)} plans in a row are too many: start again from what "
            f"{PLAN_NAMES[-1]} left, as a network of its own"
        )
    names = PLAN_NAMES[: len(plans)]
    for name, plan in zip(names, plans, strict=True):
        records.save(folder / name, plan, _SCHEMAS[type(plan)])
    return names
