"""What calibration data reaches in every channel: the bounds of what may be scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.calibrate.calibrate import calibrate, wanted_of
from deploykit.quantize.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from deploykit.core.progress import Progress
    from deploykit.load.data import Array
    from deploykit.quantize.prepare.prepare import Prepared


class ChannelExtremes:
    """An observer of the least and greatest value of every channel.

    Attributes:
        axis: the dimension of channels.
        low: [channels]; infinity before the first batch.
        high: the same.
        non_finite: 0, or 1 where a value was NaN or infinite.
    """

    def __init__(self, axis: int, size: int) -> None:
        self.axis = axis
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self.non_finite = 0

    @property
    def magnitude(self) -> NDArray[np.float64]:
        """[channels]: the largest."""
        return np.asarray(np.maximum(np.abs(self.low), np.abs(self.high)))

    def add(self, values: NDArray[np.generic]) -> None:
        """See one batch."""
        others = tuple(d for d in range(values.ndim) if d != self.axis)
        self.low = np.minimum(self.low, values.min(axis=others))
        self.high = np.maximum(self.high, values.max(axis=others))
        self.non_finite = int(not np.isfinite(self.magnitude).all())

    def range(self, tensor: str) -> Range:
        """Of all channels.

        Raises:
            BadInputError: a value was NaN or infinite.
        """
        return Range(tensor, float(self.low.min()), float(self.high.max()))


def seen_by_channel(
    prepared: Prepared,
    observers: Mapping[str, ChannelExtremes],
    batches: Iterable[Mapping[str, Array]],
    *,
    threads: int = 0,
    progress: Progress,
) -> None:
    """Show observers what some values reach on some data.

    Args:
        prepared: the float graph.
        observers: by the name of the value; they are filled.
        batches: inputs by name, read once.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.

    Raises:
        BadInputError: there is no batch, or a value is no number.
    """
    wanted = wanted_of(prepared.model.graph, observers.keys())
    order = iter([observers[name] for name in wanted])
    calibrate(
        prepared,
        wanted,
        batches,
        lambda: next(order),
        threads=threads,
        progress=progress,
    )
