"""Which groups can be cut so that the user's class still expresses the network.

All groups are tried together, each losing another share, so that nothing fits by chance. Where
that fails, groups of one kind (the same layers of a repeated block) are tried together, a kind is
halved where it fails, and groups that fail alone may pass when they shrink alike: the halves of a
`chunk`, a residual stream and the heads that must be as wide. Those become one group. Trying is on
tensors without data; what is left has to agree with the cut graph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.cutting.cut import cut, plan_of
from deploykit.compress.prune.own_class.class_check import ClassAgreement, class_agreement, lively
from deploykit.compress.prune.own_class.class_probe import runs, weightless
from deploykit.compress.prune.plan import Plan
from deploykit.compress.prune.structure import Exactness, Member, Structure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.structure import Group
    from deploykit.core.types import Model

    Groups = tuple[Group, ...]

_LEAST, _MOST = 0.2, 0.6
"""Shares of a group's channels that go in a trial."""

_FEWEST = 4
"""Channels that a group needs to be worth the tie that makes it."""

_ORDER = (Exactness.EXACT, Exactness.RENORMALISED, Exactness.APPROXIMATE)


def agreeing_groups(
    model: Model, program: Program, structure: Structure, seed: int = 0
) -> Structure:
    """The structure with what the class cannot express locked, and ties made where they help.

    Args:
        model: the network; not changed.
        program: of it.
        structure: of the program.
        seed: of the channels that go in trials.

    Returns:
        Groups that may be cut together, by any numbers; the others, with the class's own words
        as the reason of their locks. A group that stands for several has the first one's name.
    """
    search = _Search(model, program, seed)
    if search.agree(structure.free).agrees:
        return structure
    good = _largest(search, structure.free)
    bad = tuple(group for group in structure.free if group not in good)
    good = (*good, *_tied(search, good, bad))
    good = _confirmed(search, good)
    return _restricted(structure, good, search.reasons)


@dataclass(slots=True)
class _Search:
    """What was tried, and how."""

    model: Model
    program: Program
    seed: int
    reasons: dict[str, str] = field(default_factory=dict)
    _empty: Program | None = None
    _wide: Program | None = None
    _blind: bool = True

    def run(self, groups: Groups) -> ClassAgreement:
        """Whether the class runs when these groups are cut."""
        if self._empty is None:
            self._empty = weightless(self.program)
            # A class that asks tensors for values needs some: every trial is the real one then.
            self._blind = runs(self.model, self._empty, Plan()).agrees
        if not self._blind:
            return self.agree(groups)
        return _first_failure(
            runs(self.model, self._empty, self._plan(groups, digit)) for digit in _digits(groups)
        )

    def agree(self, groups: Groups) -> ClassAgreement:
        """Whether the class computes the same as the graph when these groups are cut."""
        if self._wide is None:
            self._wide = lively(self.program, self.seed)
        wide = self._wide
        smalls = (cut(wide, self._plan(groups, digit)).eval() for digit in _digits(groups))
        return _first_failure(
            class_agreement(self.model, self.program, small, self.seed) for small in smalls
        )

    def _plan(self, groups: Groups, digit: int) -> Plan:
        """One in which groups of as many channels lose different numbers.

        What must be equal would pass by chance. Groups are numbered, and lose by the last digit
        of their number, or by the one before: of any two, one digit differs.
        """
        rng = np.random.Generator(np.random.PCG64(self.seed))
        removed = {}
        for number, group in enumerate(groups):
            low = max(1, round(_LEAST * group.channels))
            choices = max(1, min(round(_MOST * group.channels), group.channels - 1) - low + 1)
            # Later ones lose less: `chunk` into parts of 5 and 4 is what comes of 9, 4 and 5 not.
            count = low + choices - 1 - number // choices**digit % choices
            count = min(count, group.channels - 1)
            removed[group.name] = np.sort(rng.permutation(group.channels)[:count])
        return plan_of(Structure(groups), removed, self.program.sizes)

    def blame(self, groups: Groups, found: ClassAgreement) -> None:
        """Note why groups are left alone; the first reason is the plainest."""
        for group in groups:
            self.reasons.setdefault(group.name, found.reason)


def _digits(groups: Groups) -> tuple[int, ...]:
    """The digits that tell groups apart: one does for as many as have choices of their own."""
    fewest = min((group.channels for group in groups), default=0)
    return (0,) if len(groups) <= (_MOST - _LEAST) * fewest else (0, 1)


def _first_failure(found: Iterable[ClassAgreement]) -> ClassAgreement:
    result = ClassAgreement(0.0)
    for result in found:
        if not result.agrees:
            break
    return result


def _largest(search: _Search, groups: Groups) -> Groups:
    """Groups that the class runs without, all together."""
    units = [unit for kind in _kinds(groups) for unit in _passing(search, kind)]
    together = tuple(group for unit in units for group in unit)
    if not units or search.run(together).agrees:
        return together
    return _greedy(search, (), units)


def _greedy(search: _Search, start: Groups, units: Sequence[Groups]) -> Groups:
    """Units added one by one, those with most weights first, as long as the class runs."""
    chosen = start
    for unit in sorted(units, key=_weight, reverse=True):
        found = search.run((*chosen, *unit))
        if found.agrees:
            chosen = (*chosen, *unit)
        else:
            search.blame(unit, found)
    return chosen


def _weight(groups: Groups) -> int:
    return sum(member.indices.size for group in groups for member in group.members)


def _kinds(groups: Groups) -> list[Groups]:
    """Groups with the same members but for numbers in their names, which behave alike."""
    kinds: dict[object, list[Group]] = {}
    for group in groups:
        key = frozenset(
            (re.sub(r"\d+", "#", m.parameter), m.dim, m.indices.shape[1] > 1) for m in group.members
        )
        kinds.setdefault(key, []).append(group)
    return [tuple(kind) for kind in kinds.values()]


def _passing(search: _Search, kind: Groups) -> Iterator[Groups]:
    """The parts of a kind that the class runs without."""
    found = search.run(kind)
    if found.agrees:
        yield kind
        return
    if len(kind) == 1:
        search.blame(kind, found)
        return
    ends = [search.run((end,)).agrees for end in (kind[0], kind[-1])]
    if not any(ends) or len(kind) == 2:
        yield from ((end,) for end, passes in zip((kind[0], kind[-1]), ends, strict=True) if passes)
        search.blame(kind, found)
        return
    middle = len(kind) // 2
    yield from _passing(search, kind[:middle])
    yield from _passing(search, kind[middle:])


def _tied(search: _Search, good: Groups, bad: Groups) -> Groups:
    """Groups made of several bad ones, that the class runs without beside the good ones."""
    nets = [net for net in _connected(bad) if len(net) > 1]
    ties = tuple(tie for net in nets if (tie := tied(net)) is not None)
    if not ties or search.run((*good, *ties)).agrees:
        return ties
    return _greedy(search, good, [(tie,) for tie in ties])[len(good) :]


def _connected(groups: Groups) -> list[Groups]:
    """Groups that share a parameter, directly or through others."""
    nets: list[tuple[set[str], list[Group]]] = []
    for group in groups:
        names = {member.parameter for member in group.members}
        touched = [net for net in nets if net[0] & names]
        merged = (names.union(*(net[0] for net in touched)), [g for net in touched for g in net[1]])
        merged[1].append(group)
        nets = [net for net in nets if net not in touched] + [merged]
    return [tuple(members) for _, members in nets]


def tied(groups: Groups) -> Group | None:
    """One group that stands for several, which lose the same share; `None` if it is too coarse.

    A channel of it is a channel of the narrowest common measure, and as many neighbours of the
    others as there are to each.
    """
    count = gcd(*(group.channels for group in groups))
    if count < _FEWEST:
        return None
    indices: dict[tuple[str, int], list[Member]] = {}
    for group in groups:
        for member in group.members:
            rows = member.indices.reshape(count, -1)
            part = replace(member, indices=rows)
            indices.setdefault((member.parameter, member.dim), []).append(part)
    members = tuple(
        replace(parts[0], indices=np.concatenate([part.indices for part in parts], axis=1))
        for parts in indices.values()
    )
    worst = max(groups, key=lambda group: _ORDER.index(group.exactness))
    return replace(
        groups[0],
        channels=count,
        members=members,
        exactness=worst.exactness,
        why=worst.why,
        unit=max(group.unit * group.channels // count for group in groups),
    )


def _confirmed(search: _Search, groups: Groups) -> Groups:
    """Those of the groups with which the class computes the same, not only runs."""
    if not groups or search.agree(groups).agrees:
        return groups
    kept: Groups = ()
    for kind in sorted(_kinds(groups), key=_weight, reverse=True):
        found = search.agree((*kept, *kind))
        if found.agrees:
            kept = (*kept, *kind)
        else:
            search.blame(kind, found)
    return kept


def _restricted(structure: Structure, good: Groups, reasons: Mapping[str, str]) -> Structure:
    """The structure in which only these groups may be cut."""
    by_name = {group.name: group for group in good}
    made: list[Group] = []
    for group in structure.groups:
        if group.locked or group.name in by_name:
            made.append(by_name.get(group.name, group))
            continue
        if any(_within(group, other) for other in good):
            continue
        why = reasons.get(group.name, "it does not run when this is cut beside the others")
        made.append(replace(group, locked=f"is left alone for the class's sake: {why}"))
    return Structure(tuple(made))


def _within(group: Group, tie: Group) -> bool:
    """Whether a group is part of one that stands for several."""
    first = group.members[0]
    return any(
        (m.parameter, m.dim) == (first.parameter, first.dim)
        and bool(np.isin(first.indices, m.indices).all())
        for m in tie.members
    )
