"""Views that merge and split dimensions.

What merges keeps its columns. What splits has to become rectangular: a column that varies along
several of the new dimensions is put on one of them, and what agrees there is united. Which one is
a choice: the longest at first (a head's width, the channels of a shuffled group), another where
that turns out to lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.trace import Choice, merged

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray

    from deploykit.compress.prune.analysis.labels import Axis, Column
    from deploykit.compress.prune.analysis.trace import Trace, Value

    Kind = TypeVar("Kind", np.int64, np.bool_)


def reshape(trace: Trace, value: Value, shape: tuple[int, ...], key: str) -> Value:
    """The value under another shape with as many elements; `key` names its choices."""
    axes: list[Axis] = [()] * len(shape)
    for number, (old, new) in enumerate(blocks(value.shape, shape)):
        sizes = [value.shape[dim] for dim in old]
        columns = merged([value.axes[dim] for dim in old], sizes)
        if not columns or not new:
            if columns:  # one index that became none
                trace.lock(tuple(columns), "is the only one")
            continue
        if len(new) == 1:
            axes[new[0]] = tuple(columns)
            continue
        pieces = tuple(shape[dim] for dim in new)
        for place, column in enumerate(columns):
            piece, labels = split(trace, column, pieces, f"{key}/{number}/{place}")
            axes[new[piece]] = (*axes[new[piece]], labels)
    return trace.move(value, shape, tuple(axes))


def split(trace: Trace, column: Column, pieces: tuple[int, ...], key: str) -> tuple[int, Column]:
    """The piece that a column falls on, and its labels there."""
    grid = column.reshape(pieces)
    sets = trace.labels.find(column).reshape(pieces)
    varying = tuple(
        dim for dim, size in enumerate(pieces) if size > 1 and (sets != sets.take([0], dim)).any()
    )
    if len(varying) < 2:
        dim = varying[0] if varying else int(np.argmax(pieces))
        return dim, _along(grid, dim)[:, 0]
    # Not by size: where a piece has the batch in it (batch times heads), labels come again.
    kinds = {dim: len(np.unique(_along(sets, dim)[:, 0])) for dim in varying}
    by_size = sorted(varying, key=lambda dim: (-kinds[dim], -dim))

    def fits(dim: int) -> bool:
        gone = _along(trace.gone(column).reshape(pieces), dim)
        return bool((gone == gone[:, :1]).all())

    taken = trace.choose(key, tuple(by_size), fits)
    rows = _along(grid, taken)
    labels = rows[:, 0]
    trace.labels.tie(rows)
    # After the first try, the nearest piece to the left: (heads, width) is how heads are written.
    outward = sorted(varying, key=lambda dim: (dim > by_size[0], abs(dim - by_size[0])))
    order = (by_size[0], *(dim for dim in outward if dim != by_size[0]))
    trace.chosen(Choice(key, taken, labels, order, pieces=True))
    return taken, labels


def _along(grid: NDArray[Kind], dim: int) -> NDArray[Kind]:
    """[size of the dimension, everything else]."""
    return np.moveaxis(grid, dim, 0).reshape(grid.shape[dim], -1)


def blocks(
    old: tuple[int, ...], new: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The finest runs of old dimensions that become runs of new ones.

    Dimensions of size 1 belong to no run.
    """
    left = [dim for dim, size in enumerate(old) if size != 1]
    right = [dim for dim, size in enumerate(new) if size != 1]
    found, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        start = (i, j)
        have, want = old[left[i]], new[right[j]]
        i, j = i + 1, j + 1
        while have != want:
            if have < want:
                have, i = have * old[left[i]], i + 1
            else:
                want, j = want * new[right[j]], j + 1
        found.append((tuple(left[start[0] : i]), tuple(right[start[1] : j])))
    return found
