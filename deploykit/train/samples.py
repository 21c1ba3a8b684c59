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
        self.data = data
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

    @property
    def is_kept(self) -> bool:
        """Whether all of it is in memory."""
        return self._kept is not None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in self.__getitems__([row]))

    def __getitems__(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        """What torch's DataLoader calls with the rows of a whole batch."""
        if self._kept is None:
            return self._read(rows)
        index = torch.as_tensor(list(rows))
        return tuple(part[index] for part in self._kept)

    def _read(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        return _tensors(self.data.batch(rows), self.data)


class Batches(Sampler[list[int]]):
    """The rows of each full batch of an epoch; those of one process, where there are several.

    Every row comes at most once an epoch, in an order that depends on the seed and the epoch only:
    whatever the number of processes, a step learns from the same rows.

    Args:
        count: of all rows.
        batch_size: of all processes together, at most `count`.
        seed: of the order.
        processes: how many share each batch equally.
        process: which of them this is, from 0.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, *, processes: int = 1, process: int = 0
    ) -> None:
        self._count = count
        self._batch_size = batch_size
        self._seed = seed
        self._share = batch_size // processes
        self._first_row = process * self._share
        self._epoch, self._first_batch = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._count // self._batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order(self._epoch)
        for number in range(self._first_batch, len(self)):
            first = number * self._batch_size + self._first_row
            yield order[first : first + self._share]

    def begin(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch, and the batch that its next iteration starts from."""
        self._epoch, self._first_batch = epoch, first_batch

    def rows(self, epoch: int, number: int) -> list[int]:
        """All rows of one batch, those of other processes too."""
        first = number * self._batch_size
        return self._order(epoch)[first : first + self._batch_size]

    def _order(self, epoch: int) -> list[int]:
        rows: list[int] = torch.randperm(
            self._count, generator=torch_generator(self._seed, epoch)
        ).tolist()
        return rows


def torch_generator(*seeds: int) -> torch.Generator:
    """Draws that depend on all of `seeds` and on nothing else."""
    return torch.Generator().manual_seed(one_seed(*seeds))


def one_seed(*seeds: int) -> int:
    """A number of 63 bits that depends on all of `seeds`."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def loader(
    samples: Samples, batches: Sampler[list[int]], *, workers: int = 0, pinned: bool = False
) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of samples.

    Args:
        samples: to read.
        batches: which rows.
        workers: processes that read ahead; none where all is in memory.
        pinned: whether batches lie in memory that a GPU can read by itself.
    """
    workers = 0 if samples.is_kept else workers
    return DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pinned,
    )


class InOrder(Sampler[list[int]]):
    """All rows in their order, for judging; every `processes`-th batch of them."""

    def __init__(
        self, count: int, batch_size: int, *, processes: int = 1, process: int = 0
    ) -> None:
        starts = range(process * batch_size, count, processes * batch_size)
        self._batches = [list(range(s, min(s + batch_size, count))) for s in starts]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)


def _as_it_is(batch: Any) -> Any:
    """The collation for `__getitems__`, which gives a tuple where torch's stubs want a list."""
    return batch


def _tensors(batch: Batch, data: Data) -> tuple[Tensor, ...]:
    if batch.labels is None:
        raise BadInputError(f"{data.name} has no labels, and training needs them")
    arrays = (*batch.inputs.values(), batch.labels)
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
