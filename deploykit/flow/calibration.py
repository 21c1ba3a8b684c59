"""Calibration data in batches that the network takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.check.accuracy import call_size
from deploykit.load.data import feeds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploykit.core.types import TensorSpec
    from deploykit.load.data import Array, Data


def calibration_batches(
    data: Data, inputs: Sequence[TensorSpec], count: int, at_once: int
) -> Iterator[dict[str, Array]]:
    """The first samples, by the names of the inputs.

    Args:
        data: of calibration.
        inputs: of the network.
        count: samples that are seen.
        at_once: of them in a batch, as near as the network takes it.

    Raises:
        BadInputError: the data does not fit the network.
    """
    size = call_size(inputs, at_once, len(data))
    for start in range(0, count, size):
        rows = list(range(start, min(start + size, count)))
        if call_size(inputs, len(rows), len(rows)) != len(rows):
            # Not a batch that the network takes: filled up with samples that were seen before.
            rows += [row % count for row in range(size - len(rows))]
        yield feeds(data.batch(rows), inputs, data.name)
