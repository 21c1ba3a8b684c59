"""The temperature that makes an exit's probabilities true. NumPy only.

Guo et al., 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOW, _HIGH = 1 / 64, 64.0
_STEPS = 60
_GOLDEN = (5**0.5 - 1) / 2
_BINS = 15  # of Guo et al., section 5


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.integer], temperature: float
) -> float:
    """Mean of -ln p(label), in nats.

    Args:
        logits: [N, classes].
        labels: [N].
        temperature: above 0.
    """
    wide = logits.astype(np.float64) / temperature
    high = wide.max(axis=-1)
    total = high + np.log(np.exp(wide - high[:, None]).sum(axis=-1))
    return float((total - wide[np.arange(len(labels)), labels]).mean())


def fitted_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The one of the least negative log likelihood, from 1/64 to 64.

    It is a convex function of 1 / temperature, so that the golden section finds its lowest point.

    Args:
        logits: [N, classes], of held-out data: on what it has learnt, a network is too sure.
        labels: [N].

    Raises:
        BadInputError: no samples.
    """
    if not len(labels):
        raise BadInputError("a temperature is fitted to held-out data, and there is none")

    def loss(inverse: float) -> float:
        return negative_log_likelihood(logits, labels, 1 / inverse)

    low, high = 1 / _HIGH, 1 / _LOW
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return 2 / (low + high)


def calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], bins: int = _BINS
) -> float:
    """Expected calibration error, 0 to 1 (Guo et al., equation 3).

    Args:
        probabilities: [N, classes].
        labels: [N].
        bins: of equal width.
    """
    sure = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gap = np.bincount(place, sure, bins) - np.bincount(place, right, bins)
    return float(np.abs(gap).sum() / len(labels))
