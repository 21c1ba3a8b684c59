"""The state of one analysis: what every value's indices are labelled with, and why some stay.

Rules (`rules/`) read and write it through a handful of operations: `fresh`, `unite`, `broadcast`,
`reshape`, `lock`, `doubt`. What a rule does not unite, may go alone; so a rule that is unsure
locks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.labels import NEVER, Labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from deploykit.compress.prune.analysis.labels import Axis, Column, Mask
    from deploykit.compress.prune.structure import Exactness, Role


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One tensor of the graph.

    Attributes:
        shape: with a stand-in for each dynamic size.
        axes: the columns of labels of each dimension; () for one that never gets smaller.
        zero: whether entries at removed indices are zero, of whichever dimension, once the
            parameters that the plan cuts are zero there.
        static: whether it is made of parameters and constants alone.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    zero: bool = False
    static: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """Something that was found out about labels.

    Attributes:
        labels: the ones it is about.
        why: in words for users, with the name of the node's module.
        exactness: `None` for a lock.
    """

    labels: Column
    why: str
    exactness: Exactness | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A place where indices can be grouped in more than one way.

    Attributes:
        key: the same in every analysis of this graph.
        taken: the number of the way that was taken.
        labels: the ones that may go the way it was taken.
        alternatives: the ways in the order in which to try them.
        pieces: whether the ways are pieces of a dimension that a view splits, numbered from the
            left, and not inside or whole groups.
    """

    key: str
    taken: int
    labels: Column
    alternatives: tuple[int, ...]
    pieces: bool = False


@dataclass(slots=True, eq=False)
class Trace:
    """One pass over a graph.

    Attributes:
        tensors: parameters and constants by their names in the graph.
        preset: choices that are made already, by key.
        removed: whether a label goes, by label; `None` outside the replay of a plan. A choice
            then falls on the way in which what goes is rectangular.
        labels: all labels so far.
        locks: what never goes.
        doubts: what does not stay exact.
        choices: made in this pass.
        widths: labels of attention's widths: what it contracts over, or gives.
        heads: labels of the dimensions that attention runs beside each other.
        roles: what indices of parameters do.
        minted: labels of copies that `expand` and the like make.
        where: what is being analysed, for messages.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    preset: Mapping[str, int] = field(default_factory=dict)
    removed: Callable[[Column], Mask] | None = None
    labels: Labels = field(default_factory=Labels)
    locks: list[Mark] = field(default_factory=list)
    doubts: list[Mark] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    widths: list[Column] = field(default_factory=list)
    heads: list[Column] = field(default_factory=list)
    roles: list[tuple[Column, Role]] = field(default_factory=list)
    minted: list[Column] = field(default_factory=list)
    where: str = ""

    def lock(self, axis: Axis, why: str) -> None:
        """None of these indices ever goes."""
        for column in axis:
            self.locks.append(Mark(column, f"{why} ({self.where})"))

    def doubt(self, axis: Axis, exactness: Exactness, why: str) -> None:
        """What is computed changes beyond these indices' being zero."""
        for column in axis:
            self.doubts.append(Mark(column, f"{why} ({self.where})", exactness))

    def role(self, value: Value, dim: int, role: Role) -> None:
        """What a dimension of a weight does; nothing where the value is no weight."""
        if value.static:
            self.roles.extend((column, role) for column in value.axes[dim])

    def fresh(self, size: int) -> Axis:
        """Labels for equal copies, which may go as whatever meets them does."""
        if size < 2:
            return ()
        column = self.labels.fresh(size)
        self.minted.append(column)
        return (column,)

    def unite(self, left: Axis, right: Axis) -> Axis:
        """Two dimensions of one size that arithmetic joins, index by index."""
        if not left and not right:
            return ()
        if not left or not right:
            self.lock(left or right, "meets a dimension of fixed size")
            return ()
        if len(left) != len(right):
            left, right = self._without_copies(left), self._without_copies(right)
        if len(left) != len(right):
            self.lock((*left, *right), "two independent cuts meet in one dimension")
            return ()
        for one, other in zip(left, right, strict=True):
            self._unite_columns(one, other)
        return left

    def _unite_columns(self, one: Column, other: Column) -> None:
        if one is other:
            return
        never = (one == NEVER) != (other == NEVER)
        if never.any():
            met = np.maximum(one, other)[never]
            self.lock((met,), "meets an index that is always kept")
        both = (one != NEVER) & (other != NEVER)
        self.labels.unite(one[both], other[both])

    def _without_copies(self, axis: Axis) -> Axis:
        """Without columns of `expand`: the copies stay, and what is copied may still go."""
        kept = []
        for column in axis:
            if any(np.isin(column, copies).any() for copies in self.minted):
                self.lock((column,), "copies that another dimension cannot follow")
            else:
                kept.append(column)
        return tuple(kept)

    def broadcast(self, values: Sequence[Value], shape: tuple[int, ...]) -> tuple[Axis, ...]:
        """Dimensions of an elementwise result, aligned at the last (NumPy's rule)."""
        axes: list[Axis] = []
        for back in range(len(shape), 0, -1):
            size = shape[-back]
            met = [v for v in values if len(v.shape) >= back]
            full = [v.axes[-back] for v in met if v.shape[-back] == size]
            for value in met:
                if value.shape[-back] != size:
                    self.lock(value.axes[-back], "a single channel is spread over many")
            axis = full[0] if full else ()
            for other in full[1:]:
                axis = self.unite(axis, other)
            axes.append(axis)
        return tuple(axes)

    def choose(
        self, key: str, alternatives: tuple[int, ...], fits: Callable[[int], bool] | None = None
    ) -> int:
        """One of several ways, the first where nobody said otherwise."""
        if fits is not None and self.removed is not None:
            return next((way for way in alternatives if fits(way)), alternatives[0])
        return self.preset.get(key, alternatives[0])

    def chosen(self, choice: Choice) -> None:
        """Remember a choice and what hangs on it."""
        self.choices.append(choice)

    def attends(self, widths: Sequence[Axis], heads: Sequence[Axis]) -> None:
        """A product of activations: dimensions it sums over or gives, and those beside them."""
        self.widths.extend(column for axis in widths for column in axis)
        self.heads.extend(column for axis in heads for column in axis)

    def gone(self, labels: Column) -> Mask:
        """Which labels go, in the replay of a plan."""
        assert self.removed is not None, "only asked in a replay"
        return self.removed(labels)

    def move(self, value: Value, shape: tuple[int, ...], axes: tuple[Axis, ...]) -> Value:
        """The same numbers elsewhere."""
        return replace(value, shape=shape, axes=axes)


def zero_in_sum(values: Sequence[Value], axes: Sequence[Axis]) -> bool:
    """Whether an elementwise sum is zero at the indices that go: each summand has to be."""
    return all(
        value.zero and _labelled(value, back)
        for back in range(1, len(axes) + 1)
        if axes[-back]
        for value in values
    )


def zero_in_product(values: Sequence[Value], axes: Sequence[Axis]) -> bool:
    """Whether an elementwise product is: one factor has to be, in every dimension."""
    return all(
        any(value.zero and _labelled(value, back) for value in values)
        for back in range(1, len(axes) + 1)
        if axes[-back]
    )


def _labelled(value: Value, back: int) -> bool:
    return len(value.axes) >= back and bool(value.axes[-back])


def merged(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Column]:
    """Columns of the one dimension that several merge into, the last varying fastest."""
    total, found = prod(sizes), []
    for dim, axis in enumerate(axes):
        inner = prod(sizes[dim + 1 :])
        for column in axis:
            repeated = np.repeat(column, inner)
            found.append(np.tile(repeated, total // len(repeated)))
    return found
