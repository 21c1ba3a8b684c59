"""In which order channels go: who competes with whom.

Channels compete within a *pool*; every pool loses the same share of its channels at the same
time. With one pool the order is that of the scores over the whole network, with a pool for each
group all groups shrink alike, and with a pool for each kind of structure only likes compete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from deploykit.compress.prune.choice.footprint import Shapes
    from deploykit.compress.prune.structure import Group

Integers: TypeAlias = "NDArray[np.int64]"

Scores: TypeAlias = "Mapping[str, NDArray[np.float64]]"
"""Importance of each channel, shape [channels], by group name."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """All channels of some groups in the order in which they go.

    Attributes:
        groups: int64 [all channels], the position of each one's group; the first goes first.
        own: for each group, its channels in the order in which they go: int64 [channels].
        places: for each group, where in `groups` its channels stand: int64 [channels].
    """

    groups: Integers
    own: tuple[Integers, ...]
    places: tuple[Integers, ...]


def rank(groups: Sequence[Group], scores: Scores, scope: str, shapes: Shapes) -> Ranking:
    """Order the channels of all groups.

    Equal scores go in the order of the groups and of the channels, so that equal input gives an
    equal result.

    Args:
        groups: at least one.
        scores: of each of the groups; the smallest goes first.
        scope: "global", "layer" or "isomorphic".
        shapes: of the parameters; what is alike is told by their ranks.
    """
    own = tuple(np.argsort(scores[group.name], kind="stable") for group in groups)
    pools: dict[object, list[int]] = {}
    for position, group in enumerate(groups):
        pools.setdefault(_pool(group, scope, shapes), []).append(position)
    owner, level = [], []
    for members in pools.values():
        values = np.concatenate([scores[groups[m].name][own[m]] for m in members])
        owners = np.repeat(members, [groups[m].channels for m in members])
        order = np.argsort(values, kind="stable")
        owner.append(owners[order])
        # The middle of each one's step: a pool of three loses its first when one of nine is due.
        level.append((np.arange(len(order)) + 0.5) / len(order))
    order = np.argsort(np.concatenate(level), kind="stable")
    sequence = np.concatenate(owner)[order].astype(np.int64)
    places = tuple(np.flatnonzero(sequence == position) for position in range(len(groups)))
    return Ranking(sequence, own, places)


def _pool(group: Group, scope: str, shapes: Shapes) -> object:
    if scope == "layer":
        return group.name
    return structure_of(group, shapes) if scope == "isomorphic" else ""


def structure_of(group: Group, shapes: Shapes) -> tuple[tuple[object, ...], ...]:
    """What isomorphic groups have in common: what their members are, not how large.

    Source: Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024 (arXiv:2407.04616),
    section 3.2: sub-structures are alike where their graphs are, with the same operators. Here
    an operator is told by what its parameter is called, its number of dimensions, the one that
    is cut, and whether a channel is one index of it or several (heads).
    """
    return tuple(
        sorted(
            (
                member.role.value,
                member.parameter.rpartition(".")[2],
                len(shapes.get(member.parameter, ())),
                member.dim,
                member.indices.shape[1] > 1,
                member.learnt,
            )
            for member in group.members
        )
    )
