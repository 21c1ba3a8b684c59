"""Images that fit in memory as bytes, normalised when they are asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.load.data import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deploykit.core.types import Preprocessing


@dataclass(frozen=True, slots=True, eq=False)
class PixelData:
    """A labelled set of small images, all of one size.

    Attributes:
        name: see `deploykit.load.data.Data`.
        labels: names of the classes.
        preprocessing: scale, mean and std, with one mean and one std a channel.
        pixels: stored values, shape [n, channels, height, width].
        targets: numbers of the classes, shape [n].
    """

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Images as float32 NCHW: (stored * scale - mean) / std; labels as int64."""
        index = np.asarray(rows, dtype=np.intp)
        done = self.preprocessing
        mean = np.asarray(done.mean, dtype=np.float32).reshape(1, -1, 1, 1)
        std = np.asarray(done.std, dtype=np.float32).reshape(1, -1, 1, 1)
        scaled = self.pixels[index].astype(np.float32) * np.float32(done.scale)
        return Batch({"x": (scaled - mean) / std}, self.targets[index])

    def digest(self) -> str:
        """SHA-256 of pixels, labels and preprocessing."""
        total = hashlib.sha256(repr((self.pixels.shape, self.preprocessing)).encode())
        total.update(np.ascontiguousarray(self.pixels).data)
        total.update(np.ascontiguousarray(self.targets, dtype="<i8").data)
        return total.hexdigest()
