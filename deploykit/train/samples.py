"""A data set as torch sees it: whole batches at once, in an order that a seed decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from deploykit.load.data import Batch, Data

# Data that decodes to at most this much is read once and kept; more is read again each epoch.
MOST_KEPT_BYTES = 1 << 30
_READ_ROWS = 1024


class Samples(Dataset[tuple["Tensor", ...]]):
    """Batches as tuples of tensors: the inputs in order, then the labels."""

    def __init__(self, data: Data) -> None:
        self._data = data
        sample_bytes = sum(part.nbytes for part in self.first(data))
        self._kept: tuple[Tensor, ...] | None = None
        if sample_bytes * len(data) <= MOST_KEPT_BYTES:
            starts = range(0, len(data), _READ_ROWS)
            parts = [self._read(range(s, min(s + _READ_ROWS, len(data)))) for s in starts]
            self._kept = tuple(torch.cat(column) for column in zip(*parts, strict=True))

    @staticmethod
    def first(data: Data, count: int = 1) -> tuple[Tensor, ...]:
        """A batch of the first samples: `count` of them, or all where there are fewer."""
        if not len(data):
            raise BadInputError(f"{data.name} has no samples")
        return _tensors(data.batch(range(min(count, len(data)))), data)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in self.__getitems__([row]))

    def __getitems__(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        """What torch's DataLoader calls with the rows of a whole batch."""
        if self._kept is None:
            return self._read(rows)
        index = torch.as_tensor(list(rows))
        return tuple(part[index] for part in self._kept)

    def _read(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        return _tensors(self._data.batch(rows), self._data)


class Shuffled(Sampler[int]):
    """Every row once, in an order that depends on the seed and the epoch only."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self._count, generator=generator(self._seed, self._epoch))
        return iter(order.tolist())

    def set_epoch(self, epoch: int) -> None:
        """Accelerate's prepared loader passes its epoch on to here."""
        self._epoch = epoch


def generator(*seeds: int) -> torch.Generator:
    """Draws that depend on all of `seeds` and on nothing else."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def shuffled(samples: Samples, batch_size: int, seed: int) -> DataLoader[tuple[Tensor, ...]]:
    """Full batches for training; see `Shuffled` for their order."""
    return DataLoader(
        samples,
        batch_size=min(batch_size, len(samples)),
        sampler=Shuffled(len(samples), seed),
        collate_fn=_as_it_is,
        drop_last=True,
    )


def in_order(samples: Samples, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    """All samples for judging, in their order."""
    return DataLoader(samples, batch_size=batch_size, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    """The collation for `__getitems__`, which gives a tuple where torch's stubs want a list."""
    return batch


def _tensors(batch: Batch, data: Data) -> tuple[Tensor, ...]:
    if batch.labels is None:
        raise BadInputError(f"{data.name} has no labels, and training needs them")
    arrays = (*batch.inputs.values(), batch.labels)
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
