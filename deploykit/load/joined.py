"""Data in two parts, of which one has no labels: only a teacher teaches those samples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.core.errors import BadInputError
from deploykit.load.data import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.core.types import Preprocessing
    from deploykit.load.data import Array, Data

NOTHING = -100
"""The class number of what has no label, as in `torch.nn.CrossEntropyLoss`."""


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """A data set without its labels, if it has any: every class number is `NOTHING`.

    Attributes:
        whole: whose inputs these are.
        shape: of one sample's labels elsewhere, `()` for a single class number.
    """

    whole: Data
    shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As users wrote it."""
        return self.whole.name

    @property
    def labels(self) -> tuple[str, ...]:
        """No class has a name here."""
        return ()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """That of the whole."""
        return self.whole.preprocessing

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.whole)

    def batch(self, rows: Sequence[int]) -> Batch:
        """See `deploykit.load.data.Data`."""
        return Batch(self.whole.batch(rows).inputs, np.full((len(rows), *self.shape), NOTHING))

    def digest(self) -> str:
        """SHA-256 of the whole's digest and the labels' shape."""
        return hashlib.sha256(f"{self.whole.digest()} no labels {self.shape}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """The samples of one data set after those of another, with class numbers for labels.

    Attributes:
        first: whose names of classes and preprocessing these are.
        second: with inputs and labels of the same shapes.
    """

    first: Data
    second: Data

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first.name} + {self.second.name}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of the first."""
        return self.first.labels

    @property
    def preprocessing(self) -> Preprocessing | None:
        """That of the first."""
        return self.first.preprocessing

    def __len__(self) -> int:
        """Number of samples of both."""
        return len(self.first) + len(self.second)

    def batch(self, rows: Sequence[int]) -> Batch:
        """See `deploykit.load.data.Data`.

        Raises:
            BadInputError: the two do not have inputs of the same shapes.
        """
        count = len(self.first)
        index = np.asarray(rows, dtype=np.intp)
        in_first = index < count
        parts = [
            (data, places, index[places] - start)
            for data, places, start in (
                (self.first, np.flatnonzero(in_first), 0),
                (self.second, np.flatnonzero(~in_first), count),
            )
            if len(places)
        ]
        batches = [data.batch(wanted.tolist()) for data, _, wanted in parts]
        order = np.argsort(np.concatenate([places for _, places, _ in parts]))
        columns = [list(batch.inputs.values()) for batch in batches]
        names = list(batches[0].inputs)
        inputs = [self._together(list(arrays), order) for arrays in zip(*columns, strict=True)]
        labels = [
            _numbers(batch.labels, data) for batch, (data, _, _) in zip(batches, parts, strict=True)
        ]
        return Batch(dict(zip(names, inputs, strict=True)), self._together(labels, order))

    def _together(self, arrays: list[Array], order: Array) -> Array:
        shapes = [list(array.shape[1:]) for array in arrays]
        if shapes[0] != shapes[-1]:
            raise BadInputError(
                f"{self.first.name} has samples of shape {shapes[0]} and {self.second.name} of "
                f"{shapes[-1]}: they are learnt together, so make them alike"
            )
        together: Array = np.concatenate(arrays)[order]
        return together

    def digest(self) -> str:
        """SHA-256 of both digests."""
        both = f"{self.first.digest()} {self.second.digest()}"
        return hashlib.sha256(both.encode()).hexdigest()


def _numbers(labels: Array | None, data: Data) -> Array:
    if labels is None or labels.dtype.kind not in "iu":
        has = "no labels" if labels is None else f"labels of type {labels.dtype}"
        raise BadInputError(
            f"{data.name} has {has}: samples without labels stand beside class numbers only"
        )
    return labels.astype(np.int64)
