"""The threshold at which quantizing changes a distribution least, by Kullback-Leibler divergence.

Source: Szymon Migacz, "8-bit Inference with TensorRT", GTC 2017, "Entropy Calibration -
pseudocode". For every threshold of i of the fine bins::

    P   the first i bins; what lies beyond is added to the last of them (it will be clipped)
    Q   the first i bins without what lies beyond, in `levels` groups; each group's count is
        spread evenly over those of its bins that are not empty

and the threshold with the least KL(P || Q) is taken. The slides leave five things open:

- i need not be a multiple of `levels`. Bin j is in group floor(j * levels / i): groups of equal
  width, as in NVIDIA's pytorch-quantization.
- Q is 0 where P is not in one place: an empty last bin that receives what is clipped. There Q
  counts as 1e-4 of a value, MXNet's smoothing constant, so that the divergence is finite.
- Exact zeros are left out. A quantizer represents them exactly at every threshold; counted, the
  half of a ReLU's output that is zero would be spread over the first group, the more so the
  higher the threshold, and drown everything else.
- No more than one value in twenty is clipped. P has what is clipped as one spike, so to clip
  (nearly) everything is a perfect match: values from 5 to 6 would all become 5.
- Of equally good thresholds the highest is taken.

Note that the candidates begin at `levels` bins: with as many bins as levels there is only one,
the largest magnitude. So there have to be many more bins (the slides: 2048 for 128 levels).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINE_BINS = 2048
"""At most; whole bins of the histogram are joined, so there are 1024 at the least."""
EMPTY = 1e-4
"""Of a value: Q of an empty last bin (mxnet.contrib.quantization, `_smooth_distribution`)."""
MOST_CLIPPED = 0.05
"""Of all values but zeros. Bell-shaped and heavy-tailed ones lose less than a hundredth."""
TIE = 1e-9
"""Divergences, in nats, that differ by less differ by rounding only."""

_BLOCK = 256
"""Candidates at once: arrays of them and their levels stay in the cache."""


def entropy_threshold(magnitudes: NDArray[np.int64], levels: int) -> int:
    """The best threshold for |x|.

    Args:
        magnitudes: counts of |x| in bins of one width from zero on, without exact zeros; the
            last is not empty.
        levels: of the quantizer on one side of zero, such as 128.

    Returns:
        How many of `magnitudes` are below the threshold.
    """
    joined = max(-(-magnitudes.size // FINE_BINS), 1)
    fine = np.zeros(-(-magnitudes.size // joined) * joined, np.int64)
    fine[: magnitudes.size] = magnitudes
    fine = fine.reshape(-1, joined).sum(axis=1)
    if fine.size <= levels:
        return magnitudes.size
    divergence = divergences(fine, levels)
    kept = np.cumsum(fine)[levels - 1 :]
    divergence[kept < (1 - MOST_CLIPPED) * kept[-1]] = np.inf
    best = np.flatnonzero(divergence <= divergence.min() + TIE)[-1]
    return min(int(levels + best) * joined, magnitudes.size)


def divergences(fine: NDArray[np.int64], levels: int) -> NDArray[np.float64]:
    """KL(P || Q) of every threshold, in nats.

    With N values in all, n of them below the threshold, c of bin j, and C and Z of its group
    (values, bins that are not empty)::

        KL = sum (p/N) log((p/N) / (q/n)),  p = c, in the last bin c + (N - n),  q = C/Z
           = [sum p log p - sum p log q] / N + log(n / N)

    where `sum p log q` over a group is C log(C/Z). Running sums give each group's C and Z, so a
    threshold costs one step per level, not per bin.

    Args:
        fine: counts by bin; more of them than levels.
        levels: groups.

    Returns:
        One for each threshold from `levels` to `fine.size` bins.
    """
    counts = fine.astype(np.float64)
    total = counts.sum()
    below = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(fine > 0)])
    own = np.concatenate([[0.0], np.cumsum(_times_log(counts))])
    step = np.arange(levels + 1)
    found = []
    for start in range(levels, counts.size + 1, _BLOCK):
        bins = np.arange(start, min(start + _BLOCK, counts.size + 1))
        # The first bin j of group g is the least with j * levels / bins >= g.
        edges = -(-step * bins[:, None] // levels)
        group = np.diff(below[edges], axis=1)
        share = group / np.maximum(np.diff(filled[edges], axis=1), 1)
        logs = np.log(share, out=np.zeros_like(share), where=share > 0)
        last, clipped, kept = counts[bins - 1], total - below[bins], below[bins]
        last_log = np.where(last > 0, logs[:, -1], np.log(EMPTY))
        entropy_p = own[bins - 1] + _times_log(last + clipped)
        cross = (group * logs).sum(axis=1) + clipped * last_log
        empty = EMPTY * ((last == 0) & (clipped > 0))
        found.append((entropy_p - cross) / total + np.log((kept + empty) / total))
    return np.concatenate(found)


def _times_log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product x log x, which is 0 at 0."""
    return x * np.log(x, out=np.zeros_like(x), where=x > 0)
