"""What goes into a layer and what shall come out of it, summed up over samples.

Least squares over any number of samples needs only second moments: of the taps p (each input under
each place of the kernel), and of them with the outputs y. A 1 beside the taps stands for the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Moments:
    """Sums over rows, in float64.

    Attributes:
        taps: Σ p pᵀ, [groups, T + 1, T + 1]; the last tap is 1.
        cross: Σ y pᵀ, [groups, O / groups, T + 1].
        square: Σ |y|².
    """

    taps: Tensor
    cross: Tensor
    square: float = 0.0

    @classmethod
    def empty(cls, groups: int, taps: int, outputs: int) -> Moments:
        """Of no rows; taps and outputs are those of one group."""
        size = taps + 1
        return cls(
            torch.zeros(groups, size, size, dtype=torch.float64),
            torch.zeros(groups, outputs, size, dtype=torch.float64),
        )

    def add(self, taps: Tensor, outputs: Tensor) -> None:
        """Count rows in: [rows, groups, T] and [rows, groups, O / groups]."""
        ones = taps.new_ones(*taps.shape[:2], 1)
        p = torch.cat([taps, ones], dim=2).permute(1, 0, 2)
        y = outputs.permute(1, 0, 2)
        # Products in the network's own precision, which is that of what is fitted; sums in double.
        self.taps += (p.transpose(1, 2) @ p).double()
        self.cross += (y.transpose(1, 2) @ p).double()
        self.square += float(y.double().square().sum())

    @property
    def spread(self) -> float:
        """Σ |y - mean|²: what a layer that gave only its mean would be off."""
        rows = self.taps[:, -1, -1]
        means = self.cross[:, :, -1].square().sum(dim=1) / rows
        return self.square - float(means.sum())

    def error(self, layer: Tensor) -> float:
        """Σ |y - A p|² as a share of `spread`: 0 is exact, 1 no better than the mean.

        Args:
            layer: A, [groups, O / groups, T + 1]; its last column is the bias.
        """
        there = (layer * self.cross).sum()
        off = self.square - 2 * there + ((layer @ self.taps) * layer).sum()
        return max(float(off), 0.0) / max(self.spread, 1e-300)
