"""Random numbers for one batch, the same ones however many processes share it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """The draws of one step. Each is made for the whole batch, of which a process takes its part.

    Attributes:
        source: of the numbers.
        total: samples of the whole batch.
        first: number of the first sample that is this process's.
        count: how many are.
    """

    source: np.random.Generator
    total: int
    first: int
    count: int

    @classmethod
    def of(cls, *seeds: int, total: int, first: int = 0, count: int | None = None) -> Draws:
        """Draws that depend on all of `seeds` and on nothing else.

        Args:
            seeds: each 0 or more.
            total: samples of the whole batch.
            first: number of the first sample that is this process's.
            count: how many are; all of them if `None`.
        """
        source = np.random.default_rng(np.random.SeedSequence(seeds))
        return cls(source, total, first, total if count is None else count)

    def uniform(self, low: float, high: float) -> Tensor:
        """One number a sample, from `low` to below `high`; shape [count]."""
        return self._mine(self.source.uniform(low, high, self.total).astype(np.float32))

    def integers(self, most: int) -> Tensor:
        """One whole number a sample, from 0 to `most`; shape [count]."""
        return self._mine(self.source.integers(0, most, self.total, endpoint=True))

    def chosen(self, share: float) -> Tensor:
        """Whether each sample is one of this share; shape [count]."""
        return self._mine(self.source.random(self.total) < share)

    def beta(self, alpha: float) -> float:
        """One number for the whole batch, from Beta(alpha, alpha)."""
        return float(self.source.beta(alpha, alpha))

    def one(self, high: float = 1.0) -> float:
        """One number for the whole batch, from 0 to below `high`."""
        return float(self.source.uniform(0, high))

    def _mine(self, drawn: np.ndarray) -> Tensor:
        return torch.from_numpy(drawn[self.first : self.first + self.count])
