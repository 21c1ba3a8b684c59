"""Labels: a number for every index that could be cut, united where indices must go together.

Every dimension of every tensor carries *columns* of labels, one label an index. An index goes
when the label in any of its columns goes; a dimension without columns never gets smaller. All
labels lie on dimensions, never on single elements, so that whatever remains is a dense tensor by
construction, and the cost is the sum of a tensor's sizes instead of their product.

A dimension gets a second column where two dimensions merge that can both be cut (heads times
width, channels times tokens); splitting it again takes the columns apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[np.int64]
    Mask = NDArray[np.bool_]
    Axis = tuple[Column, ...]

NEVER = 0
"""The label of an index that is always kept, beside others that may go."""
_FIRST_SIZE = 4096


class Labels:
    """Disjoint sets of labels, united many at a time; the least label of a set stands for it."""

    def __init__(self) -> None:
        self._parent = np.arange(_FIRST_SIZE)
        self._count = 1  # label 0 is NEVER

    def __len__(self) -> int:
        return self._count

    def fresh(self, size: int) -> Column:
        """So many labels that nobody has."""
        start, self._count = self._count, self._count + size
        while self._count > len(self._parent):
            more = np.arange(len(self._parent), 2 * len(self._parent))
            self._parent = np.concatenate((self._parent, more))
        return np.arange(start, self._count)

    def find(self, labels: Column) -> Column:
        """The label that stands for the set of each."""
        found = self._parent[labels]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parent[labels] = found
        return found

    def unite(self, left: Column, right: Column) -> None:
        """From now on, `left[i]` and `right[i]` go together, for every i."""
        left, right = self.find(left), self.find(right)
        while True:
            differ = left != right
            if not differ.any():
                return
            left, right = left[differ], right[differ]
            low, high = np.minimum(left, right), np.maximum(left, right)
            # Of several new parents for one label the least wins; the next round unites the rest.
            np.minimum.at(self._parent, high, low)
            left, right = self.find(left), self.find(right)

    def tie(self, rows: Column) -> None:
        """From now on, all labels of a row go together, for each row of [rows, n]."""
        self.unite(np.repeat(rows[:, 0], rows.shape[1] - 1), rows[:, 1:].ravel())

    def roots(self) -> Column:
        """The label that stands for each label's set, by label."""
        return self.find(np.arange(self._count))
