"""Which channels go, so that as little more is removed than was asked for.

Channels leave in the order of their ranking until the aim is met. On the way the number that each
group keeps is rounded to what its alignment allows, so that the aim is met *with* the rounding;
what rounding then removed beyond the aim is given back where a step of some group still fits.

Alignment is of each group, counted in indices of its largest writer. Where several groups lie
side by side in one dimension (after a concatenation), their aligned parts add up to an aligned
whole; a part that was not aligned to begin with may stay whole, and then the sum is not either.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from deploykit.compress.prune.choice.candidates import candidates
from deploykit.compress.prune.choice.footprint import channels_left, footprint
from deploykit.compress.prune.choice.ranking import rank
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.compress.prune.choice.footprint import Cost, Footprint, Kept, Shapes
    from deploykit.compress.prune.choice.ranking import Integers, Ranking, Scores
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.compress.prune.structure import Group, Structure

Steps: TypeAlias = Mapping[str, int | tuple[int, ...]]
"""What a group may keep, in indices of its largest writer: multiples of a number, or a list.
To keep everything is always allowed."""

_ROUNDING = 1e-12  # of sums of floats, as a share


@dataclass(frozen=True, slots=True)
class Counts:
    """What a network has.

    Attributes:
        parameters: elements of all learnt parameters.
        macs: multiply-accumulates of one sample, or `None` where nobody counted them.
        channels: of the groups that may be cut.
    """

    parameters: int
    macs: float | None
    channels: int


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What goes, and what that comes to.

    Attributes:
        removed: int64 numbers of the channels that go, ascending, by group; groups that stay
            whole are left out.
        aim: share that was to go, of what was counted.
        reached: share that goes. Below `aim` where the limits of the groups don't allow more:
            then this is the most that they allow.
        before: of the network as it is.
        after: of the network as it will be.
        unscored: groups that could be cut but about which the criterion says nothing.
    """

    removed: Mapping[str, Integers]
    aim: float
    reached: float
    before: Counts
    after: Counts
    unscored: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether as much goes as was asked for."""
        return self.reached >= self.aim - _ROUNDING


def select(
    structure: Structure,
    scores: Scores,
    options: PruneOptions,
    *,
    shapes: Shapes,
    macs: Mapping[str, float] | None = None,
    steps: Steps | None = None,
    least: Mapping[str, int] | None = None,
    cost: Cost | None = None,
) -> Selection:
    """Choose the channels that go.

    Args:
        structure: of the network.
        scores: as `score` gives them; groups without any stay whole.
        options: ratio, of, scope, exclude, exactness, max_ratio; and align where it is a number
            and `steps` are not given.
        shapes: of all learnt parameters of the network, each once.
        macs: of each layer, by the qualified name of its weight; needed where options.of is
            "macs".
        steps: what groups may keep; groups that are not named may keep any number.
        least: channels that a group keeps at least, by group, beside what max_ratio says. A loop
            that prunes in rounds counts them from the network that it started with.
        cost: what the ratio is of, instead of options.of: a predicted latency, say.

    Raises:
        BadInputError: no group can be cut, a pattern matches nothing, or the MACs are missing.
    """
    groups = candidates(structure, options.exclude, options.least_exact)
    scored = [group for group in groups if group.name in scores]
    if not scored:
        raise BadInputError(
            f"criterion {options.criterion!r} says nothing about any of the {len(groups)} groups "
            "that could be cut; take l1"
        )
    sizes = footprint(groups, shapes)
    left = cost or _cost(options.of, groups, sizes, macs)
    ladders = [_ladder(group, options, steps, least or {}) for group in scored]
    search = _Search(scored, rank(scored, scores, options.scope, shapes), ladders, left)
    whole = left({})
    kept = search.kept_for((1 - options.ratio + _ROUNDING) * whole)
    own = dict(zip((group.name for group in scored), search.ranking.own, strict=True))
    gone = {name: own[name][: len(own[name]) - count] for name, count in kept.items()}
    return Selection(
        removed={name: np.sort(channels) for name, channels in gone.items() if channels.size},
        aim=options.ratio,
        reached=1 - left(kept) / whole if whole else 0.0,
        before=_counts({}, groups, sizes, macs),
        after=_counts(kept, groups, sizes, macs),
        unscored=tuple(group.name for group in groups if group.name not in scores),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """Along the ranking, the first place where the cost is low enough.

    Attributes:
        groups: those that are ranked.
        ranking: of their channels.
        ladders: for each group, the numbers of channels that it may keep, ascending.
        cost: of what is left.
    """

    groups: Sequence[Group]
    ranking: Ranking
    ladders: Sequence[Integers]
    cost: Cost

    def kept_for(self, target: float) -> dict[str, int]:
        """Channels to keep in each group, so that the cost is at most `target` or the least."""
        low, high = 0, len(self.ranking.groups)
        while low < high:
            middle = (low + high) // 2
            if self.cost(self._kept(middle)) <= target:
                high = middle
            else:
                low = middle + 1
        kept = self._kept(high)
        return self._give_back(kept, target) if self.cost(kept) <= target else kept

    def _kept(self, gone: int) -> dict[str, int]:
        """What each group keeps when so many channels of the ranking are gone, rounded."""
        counts = np.bincount(self.ranking.groups[:gone], minlength=len(self.groups))
        return {
            group.name: _nearest(ladder, group.channels - int(count))
            for group, ladder, count in zip(self.groups, self.ladders, counts, strict=True)
        }

    def _give_back(self, kept: dict[str, int], target: float) -> dict[str, int]:
        """Let groups keep a step more, the most important channels first, while the aim is met."""
        queue = [item for item in map(self._next, range(len(self.groups)), kept.values()) if item]
        heapq.heapify(queue)
        while queue:
            _, position, more = heapq.heappop(queue)
            tried = kept | {self.groups[position].name: more}
            if self.cost(tried) <= target:
                kept = tried
                item = self._next(position, more)
                if item is not None:
                    heapq.heappush(queue, item)
        return kept

    def _next(self, position: int, kept: int) -> tuple[int, int, int] | None:
        """Minus the place of the last channel that went, the group, and its next step up."""
        ladder, places = self.ladders[position], self.ranking.places[position]
        step = int(np.searchsorted(ladder, kept, side="right"))
        if step == len(ladder):
            return None
        return -int(places[len(places) - kept - 1]), position, int(ladder[step])


def _ladder(
    group: Group, options: PruneOptions, steps: Steps | None, least: Mapping[str, int]
) -> Integers:
    """Numbers of channels that the group may keep, ascending; the last is all of them."""
    floor = math.ceil((1 - options.max_ratio) * group.channels - _ROUNDING * group.channels)
    floor = min(max(1, floor, least.get(group.name, 1)), group.channels)
    step = (options.step or 1) if steps is None else steps.get(group.name, 1)
    counts = np.arange(floor, group.channels + 1)
    if isinstance(step, int):
        allowed = counts * group.unit % step == 0
    else:
        allowed = np.isin(counts * group.unit, step)
    allowed[-1] = True
    ladder: Integers = counts[allowed]
    return ladder


def _nearest(ladder: Integers, count: int) -> int:
    """The rung next to `count`; of two, the higher."""
    above = min(int(np.searchsorted(ladder, count)), len(ladder) - 1)
    below = max(above - 1, 0)
    return int(ladder[below] if count - ladder[below] < ladder[above] - count else ladder[above])


def _cost(
    of: str, groups: Sequence[Group], sizes: Footprint, macs: Mapping[str, float] | None
) -> Cost:
    if of == "channels":
        return channels_left(groups)
    if of == "parameters":
        return sizes.parameters
    if not macs or not sum(macs.get(name, 0.0) for name in sizes.tensors):
        raise BadInputError(
            'the multiply-accumulates of this network are not known; use of = "parameters"'
        )
    return lambda kept: sizes.macs(kept, macs)


def _counts(
    kept: Kept, groups: Sequence[Group], sizes: Footprint, macs: Mapping[str, float] | None
) -> Counts:
    return Counts(
        parameters=sizes.parameters(kept),
        macs=None if macs is None else sizes.macs(kept, macs),
        channels=int(channels_left(groups)(kept)),
    )
