"""Labels -> groups: sets of labels that lie in the same dimensions of the same parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.labels import NEVER
from deploykit.compress.prune.analysis.trace import Mark
from deploykit.compress.prune.graph.program import learnt
from deploykit.compress.prune.structure import Exactness, Group, Member, Role, Structure

if TYPE_CHECKING:
    from deploykit.compress.prune.analysis.analyse import Analysis
    from deploykit.compress.prune.analysis.labels import Column

_ORDER = (Exactness.EXACT, Exactness.RENORMALISED, Exactness.APPROXIMATE)


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Where labels lie: row for row a set, a dimension of a parameter, and an index of it."""

    sets: Column
    dims: Column
    indices: Column


def groups_of(analysis: Analysis) -> Structure:
    """All groups, in the order in which the network computes them.

    A set of labels that no parameter's dimension writes (padding, token positions) is no group.
    """
    trace = analysis.trace
    roots = trace.labels.roots()
    named = [
        (name, dim)
        for name, value in analysis.leaves.items()
        if name in analysis.program.names
        for dim, axis in enumerate(value.axes)
        if len(axis) == 1
    ]
    if not named:
        return Structure(())
    columns = [analysis.leaves[name].axes[dim][0] for name, dim in named]
    places = _Places(
        roots[np.concatenate(columns)],
        np.repeat(np.arange(len(named)), [len(column) for column in columns]),
        np.concatenate([np.arange(len(column)) for column in columns]),
    )
    roles = _roles(analysis, columns)
    named_learnt = learnt(analysis.program.module)
    locks = _reasons(trace.locks, roots)
    locks.setdefault(NEVER, Mark(np.array([NEVER]), "meets an index that is always kept"))
    doubts = _reasons(trace.doubts, roots)
    made: list[Group] = []
    names: dict[str, int] = {}
    for rows in _alike(places, locks):
        members = _members(places, rows, named, roles, named_learnt)
        writers = [m for m in members if m.role is Role.WRITES]
        if not writers:
            continue
        group = _group(members, writers, names)
        sets = np.unique(places.sets[rows]).tolist()
        lock = locks.get(sets[0])
        mark = max((doubts[s] for s in sets if s in doubts), key=_gravity, default=None)
        made.append(
            Group(
                name=group,
                channels=len(members[0].indices),
                members=members,
                exactness=(mark.exactness or Exactness.EXACT) if mark else Exactness.EXACT,
                why=mark.why if mark else "",
                locked=lock.why if lock else "",
                unit=max(m.indices.shape[1] for m in writers),
            )
        )
    return Structure(tuple(made))


def _alike(places: _Places, locks: dict[int, Mark]) -> list[Column]:
    """Rows of each group: sets that touch the same dimensions, as often, in order of appearance."""
    rng = np.random.Generator(np.random.PCG64(0))
    # A sum of random numbers, one a dimension, is the same for the same dimensions only.
    numbers = rng.integers(1, 1 << 62, size=int(places.dims.max()) + 1, dtype=np.uint64)
    sums = np.zeros(int(places.sets.max()) + 1, dtype=np.uint64)
    np.add.at(sums, places.sets, numbers[places.dims])
    why = {mark.why: number for number, mark in enumerate(locks.values(), 1)}
    for label, mark in locks.items():
        if label < len(sums):
            sums[label] ^= np.uint64(why[mark.why] * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    kind = sums[places.sets]
    order = np.argsort(kind, kind="stable")
    edges = np.flatnonzero(np.diff(kind[order])) + 1
    found = np.split(order, edges)
    return sorted(found, key=lambda rows: int(rows[0]))


def _members(
    places: _Places,
    rows: Column,
    named: list[tuple[str, int]],
    roles: list[Role],
    known: frozenset[str],
) -> tuple[Member, ...]:
    """The dimensions of a group, each with the indices of every channel."""
    sets = places.sets[rows]
    channels, number = np.unique(sets, return_inverse=True)
    members = []
    for dim in dict.fromkeys(places.dims[rows].tolist()):
        mine = rows[places.dims[rows] == dim]
        whose = number[places.dims[rows] == dim]
        order = np.lexsort((places.indices[mine], whose))
        indices = places.indices[mine][order].reshape(len(channels), -1)
        name, axis = named[dim]
        members.append(Member(name, axis, indices, roles[dim], name in known))
    return tuple(members)


def _group(members: tuple[Member, ...], writers: list[Member], names: dict[str, int]) -> str:
    """A name of its own: the first writer's module, numbered where it writes several groups."""
    first = next((m for m in writers if m.learnt), members[0])
    name = first.parameter.rpartition(".")[0] or first.parameter
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}:{names[name]}"


def _roles(analysis: Analysis, columns: list[Column]) -> list[Role]:
    """What each dimension does; a dimension that only scales was marked by nobody."""
    known = np.zeros(len(analysis.trace.labels), dtype=np.int8)
    for column, role in analysis.trace.roles:
        number = {Role.SCALES: 0, Role.READS: 1, Role.WRITES: 2}[role]
        known[column] = np.maximum(known[column], number)
    by_number = (Role.SCALES, Role.READS, Role.WRITES)
    return [by_number[int(known[column].max(initial=0))] for column in columns]


def _reasons(marks: list[Mark], roots: Column) -> dict[int, Mark]:
    """The gravest mark of every set; among equals the first."""
    found: dict[int, Mark] = {}
    for mark in marks:
        for label in np.unique(roots[mark.labels]).tolist():
            known = found.get(label)
            if known is None or _gravity(mark) > _gravity(known):
                found[label] = mark
    return found


def _gravity(mark: Mark) -> int:
    return 0 if mark.exactness is None else _ORDER.index(mark.exactness)
