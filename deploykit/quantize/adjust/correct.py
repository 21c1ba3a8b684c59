"""Bias correction: the mean of every channel is what it was before quantization.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019),
section 4.2: rounding errors of weights have a mean, too, which moves the mean of a layer's results
by the same amount on all inputs. It is measured here on data, and on the input that the quantized
network gives the layer, so that what layers before it did is made up for as well:

    b - (E[quantized result] - E[float result]).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from deploykit.load.data import Array
    from deploykit.quantize.adjust.integers import IntegerGraph, IntegerLayer


def correct_bias(
    graph: IntegerGraph, layer: IntegerLayer, wanted: Iterable[Array], found: Iterable[Array]
) -> float:
    """Take the mean error out of a layer's bias. Changes `graph`.

    Args:
        graph: quantized.
        layer: one with a bias of its own.
        wanted: the results of the float layer, batch by batch.
        found: those of the quantized one, without what follows it.

    Returns:
        The largest change of a channel.
    """
    bias = graph.bias(layer)
    assert bias is not None
    moved = mean_error(wanted, found, layer.channel_axis)
    graph.set_bias(layer, bias - moved)
    return float(np.abs(moved).max(initial=0.0))


def mean_error(wanted: Iterable[Array], found: Iterable[Array], axis: int) -> NDArray[np.float64]:
    """[channels]: how much the second is more than the first, on average."""
    total, count = np.zeros(()), 0
    for right, got in zip(wanted, found, strict=True):
        others = tuple(d for d in range(right.ndim) if d != axis % right.ndim)
        error = np.subtract(got, right, dtype=np.float64)
        total = total + error.sum(axis=others)
        count += error.size // max(error.shape[axis], 1)
    return np.asarray(total / max(count, 1))
