"""The plan: which indices of which parameters are kept. With the source it rebuilds the network.

A plan is data: what it names is looked up in a network that the user gave, and nothing in it is
ever imported or executed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from deploykit.compress.prune.options import HEADS
from deploykit.core.errors import BadInputError
from deploykit.core.records import Schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deploykit.compress.prune.structure import Group

PLAN = Schema("deploykit/prune-plan")


@dataclass(frozen=True, slots=True)
class Cut:
    """One dimension of one parameter or buffer that got smaller.

    Attributes:
        parameter: its qualified name in the original network.
        dim: which dimension.
        size: of the original.
        kept: indices that stay, ascending, at least one.
    """

    parameter: str
    dim: int
    size: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be cut so."""
        where = f"{self.parameter}, dimension {self.dim}"
        if not self.kept:
            raise BadInputError(f"the plan keeps nothing of {where}")
        if any(a >= b for a, b in zip(self.kept, self.kept[1:], strict=False)):
            raise BadInputError(f"the plan's indices of {where} are not ascending")
        if self.kept[0] < 0 or self.kept[-1] >= self.size:
            wrong = self.kept[0] if self.kept[0] < 0 else self.kept[-1]
            raise BadInputError(f"the plan keeps index {wrong} of {where}, which has {self.size}")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was removed from a network.

    Attributes:
        cuts: every dimension that got smaller, once.
        blocks: residual blocks that are gone, by the name of their module; what they added to
            the residual stream is not added any more.
        heads: "within" or "whole": what was cut of attention (see `PruneOptions.heads`).
        keeps_class: whether what is left is a network of the user's own class, not a graph.
    """

    cuts: tuple[Cut, ...] = ()
    blocks: tuple[str, ...] = ()
    heads: str = field(default="within")
    keeps_class: bool = False

    def __post_init__(self) -> None:
        """Refuse what the analysis does not know."""
        if self.heads not in HEADS:
            raise BadInputError(
                f"the plan has heads {self.heads!r}; known are {' and '.join(HEADS)}"
            )


def without(plan: Plan, groups: Iterable[Group]) -> Plan:
    """The plan with these groups left whole; what it says of others stays."""
    spared: dict[tuple[str, int], set[int]] = {}
    for group in groups:
        for member in group.members:
            indices = spared.setdefault((member.parameter, member.dim), set())
            indices.update(member.indices.ravel().tolist())
    cuts = []
    for cut in plan.cuts:
        kept = set(cut.kept) | spared.get((cut.parameter, cut.dim), set())
        if len(kept) < cut.size:
            cuts.append(replace(cut, kept=tuple(sorted(kept))))
    return replace(plan, cuts=tuple(cuts))
