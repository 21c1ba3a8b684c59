"""Percentiles with intervals that make no assumption about the distribution.

Two questions, two answers, and the wider one counts:

* *Were these calls all there is?* Order statistics bound a percentile of independent samples:
  the number of samples below it is binomial (Hahn & Meeker, "Statistical Intervals", 1991,
  section 5.2). No p99 is given from fewer samples than such a bound needs.
* *Do calls of one slice hang together?* Latencies drift and come in bursts, so that slices, not
  calls, are what repeats. Woodruff's interval for a percentile of a cluster sample ("Confidence
  intervals for medians and other position measures", JASA 47, 1952) takes the standard error of
  the share of samples below the percentile from how that share differs between slices, with
  Student's t for the few slices that there are, and reads the bounds off the ordered samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.core.student_t import student_t

Latencies: TypeAlias = NDArray[np.int64]
Blocks: TypeAlias = NDArray[np.int64]

MEDIAN_CONFIDENCE = 0.95
TAIL_CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Quantile:
    """A percentile of the samples, with a two-sided interval.

    Attributes:
        share: 0.5 for the median, 0.99 for p99.
        value_ns: of the samples.
        low_ns: lower bound; `None` where slices differ so much that there is none yet.
        high_ns: upper bound; `None` likewise, as where slow calls come in bursts.
        confidence: of the interval.
    """

    share: float
    value_ns: float
    low_ns: float | None
    high_ns: float | None
    confidence: float


def quantile(
    latency_ns: Latencies, block: Blocks, share: float, confidence: float
) -> Quantile | None:
    """A percentile with its interval; `None` from fewer samples than the interval needs.

    Args:
        latency_ns: shape [n].
        block: shape [n], the slice (process and round) of each sample.
        share: 0 to 1, both exclusive.
        confidence: two-sided, 0 to 1, both exclusive.
    """
    count = len(latency_ns)
    if count < samples_needed(share, confidence):
        return None
    ordered = np.argsort(latency_ns, kind="stable")
    values = latency_ns[ordered]
    value = float(np.quantile(values, share, method="median_unbiased"))
    low, high = order_ranks(count, share, confidence)
    half = cluster_half_width(latency_ns, block, value, confidence)
    low = min(low, math.floor(count * (share - half)))
    high = max(high, math.ceil(count * (share + half)) + 1)
    return Quantile(
        share=share,
        value_ns=value,
        low_ns=float(values[low - 1]) if low >= 1 else None,
        high_ns=float(values[high - 1]) if high <= count else None,
        confidence=confidence,
    )


def samples_needed(share: float, confidence: float, *, two_sided: bool = True) -> int:
    """The fewest samples whose extremes bound a percentile.

    For a share of 0.99 at a confidence of 0.99: 459 for an upper bound alone (0.99^459 < 0.01),
    528 for both sides, half of the risk on each (0.99^528 < 0.005).

    Source: Hahn & Meeker 1991, section 5.2, with the extremes as the order statistics.
    """
    risk = (1 - confidence) / 2 if two_sided else 1 - confidence
    rarer = max(share, 1 - share)
    return math.ceil(math.log(risk) / math.log(rarer))


@lru_cache(maxsize=256)
def order_ranks(count: int, share: float, confidence: float) -> tuple[int, int]:
    """Ranks of the ordered samples, from 1, that bound a percentile of independent samples.

    With B binomial(count, share): the largest `low` with P(B < low) at most half the risk, and
    the smallest `high` with P(B >= high) at most half the risk. Where there is none, 0 and
    `count + 1`.

    Source: Hahn & Meeker 1991, section 5.2.1.
    """
    risk = (1 - confidence) / 2
    first, mass = _binomial(count, share)
    below = np.cumsum(mass)  # P(B <= first + i)
    above = np.cumsum(mass[::-1])[::-1]  # P(B >= first + i)
    low = first + int(np.searchsorted(below, risk, side="right"))
    tail = np.flatnonzero(above <= risk)
    high = first + int(tail[0]) if len(tail) else first + len(mass)
    return low, high


def cluster_half_width(
    latency_ns: Latencies, block: Blocks, value: float, confidence: float
) -> float:
    """Half of Woodruff's interval, as a share of the samples; 1 (no bound) for a single block.

    With y_b the samples of block b at or below the percentile and m_b all of its samples, the
    share below is the ratio estimator sum(y) / sum(m); its standard error comes from the
    residuals y_b - p m_b (Cochran, "Sampling Techniques", 1977, equation 6.4).
    """
    _, index = np.unique(block, return_inverse=True)
    blocks = int(index.max()) + 1
    if blocks < 2:
        return 1.0
    size = np.bincount(index, minlength=blocks).astype(np.float64)
    # Ties at the percentile count half: a coarse clock must not look like a spread.
    under = np.bincount(index, weights=latency_ns < value, minlength=blocks)
    equal = np.bincount(index, weights=latency_ns == value, minlength=blocks)
    met = under + equal / 2
    residual = met - met.sum() / size.sum() * size
    error = math.sqrt(blocks / (blocks - 1) * float(residual @ residual)) / float(size.sum())
    return student_t(confidence, blocks - 1) * error


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster one case is than another, paired by round.

    Attributes:
        value: above 1: faster than the other.
        low: lower bound at `MEDIAN_CONFIDENCE`, or `None` from too few rounds.
        high: upper bound, or `None`.
        rounds: how many both took part in.
    """

    value: float
    low: float | None
    high: float | None
    rounds: int


def paired_ratio(reference: dict[int, float], other: dict[int, float]) -> Ratio | None:
    """The median over rounds of reference / other, with its order-statistic interval.

    Each round has both within a fraction of a second, so that what slows the machine for longer
    falls out of the ratio.

    Args:
        reference: median latency by round.
        other: the same of the case whose speed is wanted.
    """
    common = sorted(reference.keys() & other.keys())
    if not common:
        return None
    ratios = np.sort([reference[key] / other[key] for key in common])
    low, high = order_ranks(len(ratios), 0.5, MEDIAN_CONFIDENCE)
    bounded = low >= 1 and high <= len(ratios)
    return Ratio(
        value=float(np.median(ratios)),
        low=float(ratios[low - 1]) if bounded else None,
        high=float(ratios[high - 1]) if bounded else None,
        rounds=len(ratios),
    )


def _binomial(count: int, share: float) -> tuple[int, NDArray[np.float64]]:
    """Binomial probabilities wherever they matter: the first count, and the probabilities on."""
    spread = 12 * math.sqrt(count * share * (1 - share)) + 12
    first = max(0, math.floor(count * share - spread))
    last = min(count, math.ceil(count * share + spread))
    k = np.arange(first, last, dtype=np.float64)
    steps = np.log((count - k) / (k + 1)) + math.log(share / (1 - share))
    log_first = (
        math.lgamma(count + 1)
        - math.lgamma(first + 1)
        - math.lgamma(count - first + 1)
        + first * math.log(share)
        + (count - first) * math.log1p(-share)
    )
    mass = np.exp(np.concatenate([[log_first], log_first + np.cumsum(steps)]))
    return first, mass / mass.sum()
