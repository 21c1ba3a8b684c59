"""A sample of what a layer reads: enough rows to try quantizers on, however much data there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.adjust.extremes import ChannelExtremes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH_ROWS, _MOST_ROWS = 64, 2048


class RowSample(ChannelExtremes):
    """An observer of extremes by channel that also keeps rows, evenly spaced in each batch.

    Attributes:
        parts: arrays of shape [rows, channels].
    """

    def __init__(self, axis: int, size: int) -> None:
        super().__init__(axis, size)
        self.parts: list[NDArray[np.float32]] = []
        self._count = 0

    @property
    def rows(self) -> NDArray[np.float32]:
        """[rows, channels]."""
        return np.concatenate(self.parts)

    def add(self, values: NDArray[np.generic]) -> None:
        """See one batch."""
        super().add(values)
        if self._count >= _MOST_ROWS:
            return
        rows = np.moveaxis(values, self.axis, -1).reshape(-1, values.shape[self.axis])
        chosen = np.linspace(0, len(rows) - 1, min(_BATCH_ROWS, len(rows))).astype(int)
        self.parts.append(rows[chosen].astype(np.float32))
        self._count += len(chosen)
