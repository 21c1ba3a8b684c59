"""Ranges from histograms beside what the same method finds in all stored values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.quantize.calibrate.entropy import (
    EMPTY,
    MOST_CLIPPED,
    TIE,
    divergences,
    entropy_threshold,
)
from deploykit.quantize.calibrate.histogram import Histogram
from deploykit.quantize.calibrate.methods import entropy, mse, percentile, range_of
from deploykit.quantize.calibrate.mse import OneSide
from deploykit.quantize.calibration_options import HISTOGRAM_METHODS, CalibrationOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Draw = Callable[[np.random.Generator, int], NDArray[Any]]

SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "student": lambda rng, n: rng.standard_t(3, n),
    "relu": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "exponential": lambda rng, n: rng.exponential(0.01, n),
    "negative": lambda rng, n: -rng.gamma(2, 40, n),
    "far": lambda rng, n: 5 + rng.random(n),
    "skewed": lambda rng, n: np.where(rng.random(n) < 0.8, rng.exponential(3, n), -0.2),
    "relu6": lambda rng, n: np.clip(4 * rng.standard_normal(n), 0, 6),
    "sparse": lambda rng, n: np.where(rng.random(n) < 0.02, rng.exponential(1, n), 0),
    "outlier": lambda rng, n: np.append(rng.standard_normal(n - 1), 100),
    "far outlier": lambda rng, n: np.append(rng.standard_normal(n - 1), -1e6),
    "two humps": lambda rng, n: rng.standard_normal(n) * 0.1 + rng.integers(0, 2, n) * 3,
}


def _histogram(values: NDArray[Any]) -> Histogram:
    made = Histogram()
    for batch in np.array_split(values, 7):
        made.add(batch)
    return made


def _values(shape: str, count: int = 20_000) -> NDArray[np.float32]:
    return SHAPES[shape](np.random.default_rng(7), count).astype(np.float32)


# Percentile


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.floats(50, 100, exclude_min=True) | st.sampled_from([99.0, 99.99, 100.0]),
)
def test_percentiles_are_within_a_bin_of_stored_data(values: list[float], percent: float) -> None:
    stored = np.array(values, np.float64)
    histogram = _histogram(stored)
    bin_ = histogram.grid.width * (1 + 1e-9)

    low, high = percentile(histogram, percent, symmetric=False)
    assert low == pytest.approx(min(np.percentile(stored, 100 - percent), 0), abs=bin_, rel=0)
    assert high == pytest.approx(max(np.percentile(stored, percent), 0), abs=bin_, rel=0)
    low, high = percentile(histogram, percent, symmetric=True)
    assert high == pytest.approx(np.percentile(np.abs(stored), percent), abs=bin_, rel=0)
    assert low == -high


@pytest.mark.parametrize("shape", SHAPES)
def test_the_percentile_100_is_all_there_is(shape: str) -> None:
    values = _values(shape)
    histogram = _histogram(values)

    low, high = min(values.min(), 0), max(values.max(), 0)
    assert percentile(histogram, 100, symmetric=False) == (low, high)
    assert percentile(histogram, 100, symmetric=True)[1] == np.abs(values).max()


# Entropy


def _slow_divergences(fine: NDArray[Any], levels: int) -> list[float]:
    """The slides' pseudocode, bin by bin; `entropy.py` lists what they leave open."""
    found = []
    for i in range(levels, fine.size + 1):
        kept = [int(count) for count in fine[:i]]
        p = [float(count) for count in kept]
        p[-1] += int(fine[i:].sum())
        q = [0.0] * i
        for level in range(levels):
            group = [j for j in range(i) if j * levels // i == level]
            filled = [j for j in group if kept[j]]
            for j in filled:
                q[j] = sum(kept[k] for k in group) / len(filled)
        if p[-1] > 0 and q[-1] == 0:
            q[-1] = EMPTY
        total_p, total_q = sum(p), sum(q)
        found.append(
            sum(
                (a / total_p) * np.log((a / total_p) / (b / total_q))
                for a, b in zip(p, q, strict=True)
                if a > 0
            )
        )
    return found


def _quick_divergences(fine: NDArray[Any], levels: int) -> NDArray[Any]:
    """The same, a threshold at a time: the slides' size takes seconds."""
    found = []
    for i in range(levels, fine.size + 1):
        kept = fine[:i].astype(float)
        group = np.arange(i) * levels // i
        filled = np.bincount(group, weights=kept > 0)[group]
        q = np.where(kept > 0, np.bincount(group, weights=kept)[group] / np.maximum(filled, 1), 0)
        p = kept.copy()
        p[-1] += fine[i:].sum()
        if p[-1] > 0 and q[-1] == 0:
            q[-1] = EMPTY
        used = p > 0
        p, q = p[used] / p.sum(), q[used] / q.sum()
        found.append(float((p * np.log(p / q)).sum()))
    return np.array(found)


@given(
    st.lists(st.integers(0, 40), min_size=5, max_size=40).map(lambda x: [*x, 1]),
    st.sampled_from([2, 4, 5]),
)
def test_divergences_are_those_of_the_slides(fine: list[int], levels: int) -> None:
    fine[0] += 1
    counts = np.array(fine)

    assert divergences(counts, levels) == pytest.approx(_slow_divergences(counts, levels), abs=1e-9)
    assert _quick_divergences(counts, levels) == pytest.approx(
        _slow_divergences(counts, levels), abs=1e-9
    )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_is_within_a_bin_of_the_search_over_stored_data(
    shape: str, symmetric: bool
) -> None:
    values = _values(shape)
    histogram = _histogram(values)
    low, high = entropy(histogram, symmetric=symmetric)

    stored = np.abs(values[values != 0]).astype(np.float64)
    reach = np.floor(stored.max() / histogram.grid.width) + 1
    fine_width = np.ceil(reach / 2048) * histogram.grid.width
    fine = np.bincount(np.floor(stored / fine_width).astype(int))
    one_sided = values.min() >= 0 or values.max() <= 0
    levels = 256 if one_sided and not symmetric else 128
    divergence = _quick_divergences(fine, levels)
    clipped = 1 - np.cumsum(fine)[levels - 1 :] / fine.sum()
    divergence[clipped > MOST_CLIPPED] = np.inf
    expected = (levels + int(np.argmin(divergence))) * fine_width

    assert 1024 <= fine.size <= 2048
    assert max(-low, high) == pytest.approx(min(expected, stored.max()), abs=fine_width)
    if symmetric:
        assert low == -high
    else:
        assert low == pytest.approx(max(min(values.min(), 0), -expected), abs=fine_width)


def test_entropy_clips_what_is_rare_and_far() -> None:
    """The whole point: with as few bins as levels it would return the largest magnitude."""
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[:3] = [20, -21, 22]
    low, high = entropy(_histogram(values), symmetric=True)

    assert 3 < high < 8
    assert low == -high


def test_entropy_keeps_values_that_are_far_from_zero() -> None:
    """Clipping all of them to one level would leave P and Q alike."""
    low, high = entropy(_histogram(_values("far")), symmetric=False)

    assert low == 0
    assert high > 5.94


@pytest.mark.parametrize("method", [entropy, mse])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_number_of_zeros_does_not_matter(method: Any, symmetric: bool) -> None:
    """A quantizer has them exactly, whatever its range."""
    values = np.append(_values("relu"), np.float32(200))
    histogram = _histogram(values)
    few_zeros = method(histogram, symmetric=symmetric)
    # As if so many had been seen: enough to outweigh all else, if they counted.
    histogram.counts[-histogram.grid.first] += 10**11
    histogram.zeros += 10**11
    histogram.count += 10**11

    assert method(histogram, symmetric=symmetric) == few_zeros


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    magnitudes = np.zeros(1500, np.int64)
    magnitudes[[0, -1]] = 10**12, 1

    assert np.ptp(divergences(magnitudes, 128)) < TIE
    assert entropy_threshold(magnitudes, 128) == 1500


def test_a_short_side_of_an_asymmetric_range_ends_where_its_values_end() -> None:
    values = _values("skewed")
    low, high = entropy(_histogram(values), symmetric=False)

    assert low == values.min()
    assert high < values.max()


# Mean squared error


def _error(values: NDArray[Any], scale: float, lowest: int, highest: int) -> float:
    rounded = np.clip(np.rint(values / scale), lowest, highest)
    return float(((rounded * scale - values) ** 2).sum())


def _least_error(values: NDArray[Any], bits: int, symmetric: bool) -> float:
    """By force, over scales 2 % apart and zero points, on stored values."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    if symmetric:
        half = 1 << (bits - 1)
        widest = max(-low, high) / (half - 1)
        choices = [(widest * 0.98**k, -half) for k in range(200)]
    else:
        steps = (1 << bits) - 1
        choices = [
            (scale, -zero)
            for scale in ((high - low) / (steps - 1) * 0.98**k for k in range(200))
            for zero in {round(-low / scale), *np.linspace(0, steps, 18).astype(int).tolist()}
            if 0 <= zero <= steps
        ]
    return min(_error(values, scale, zero, zero + (1 << bits) - 1) for scale, zero in choices)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_quantizer_has_a_squared_error_a_percent_below(
    shape: str, symmetric: bool, bits: int
) -> None:
    values = _values(shape, 3000).astype(np.float64)
    low, high = mse(_histogram(values), bits, symmetric=symmetric)

    if symmetric:
        half = 1 << (bits - 1)
        found = _error(values, high / (half - 1), -half, half - 1)
        assert low == -high
    else:
        steps = (1 << bits) - 1
        scale = (high - low) / steps
        assert low / scale == pytest.approx(round(low / scale), abs=1e-6)
        found = _error(values, scale, round(low / scale), round(high / scale))
    assert found <= 1.01 * _least_error(values, bits, symmetric)


def test_errors_within_a_bin_are_integrals() -> None:
    """Three values spread evenly from 0 to 1: x^2 has the mean 1/3, rounding scale^2 / 12."""
    side = OneSide(np.array([3]), 0, 1)

    assert side.errors(0.1, 0)[0] == pytest.approx(3 / 3)
    assert side.errors(0.25, 9)[-1] == pytest.approx(3 * 0.25**2 / 12)


def test_both_ends_get_a_level_where_nothing_should_be_clipped() -> None:
    """At 2 bits there are 3 steps; -1, 0 and 1 need one that is longer than a third of 2."""
    low, high = mse(_histogram(np.array([-1.0, 1.0] * 50)), 2, symmetric=False)

    assert (low, high) == pytest.approx((-1, 2))


def test_mse_clips_more_the_fewer_bits_there_are() -> None:
    histogram = _histogram(_values("normal"))
    ends = [mse(histogram, bits, symmetric=True)[1] for bits in (2, 3, 4, 6, 8)]

    assert ends == sorted(ends)
    # Max, IRE Trans. Inf. Theory 6 (1960), table II: equal steps for a normal distribution.
    assert ends[1] / 3 == pytest.approx(0.5860, rel=0.05)
    assert ends[2] / 7 == pytest.approx(0.3352, rel=0.05)


# What the worst tensors do


@pytest.mark.parametrize("method", HISTOGRAM_METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 4,
        [3.0] * 9,
        [-0.125],
        [1e-40, 2e-40],
        [1e30, *np.linspace(-1, 1, 500)],
        [-3e38, 3e38],
        [65504.0, 6e-8],
        [5.0, 6.0, 7.0],
    ],
    ids=str,
)
def test_every_range_is_finite_contains_zero_and_ends_near_the_values(
    values: list[float], symmetric: bool, method: str
) -> None:
    stored = np.array(values, np.float32)
    low, high = range_of(_histogram(stored), CalibrationOptions(method), symmetric=symmetric)
    reach = float(np.abs(stored).max())

    assert np.isfinite([low, high]).all()
    assert low <= 0 <= high
    assert high - low <= 2.01 * reach
    assert (low, high) == (0, 0) or reach
    assert not symmetric or low == -high
    assert type(low) is type(high) is float


@pytest.mark.parametrize("method", HISTOGRAM_METHODS)
@pytest.mark.parametrize("constant", [3.0, -0.7, 1e-20, 1e30])
def test_the_range_of_a_constant_ends_at_it(method: str, constant: float) -> None:
    histogram = _histogram(np.full(100, constant, np.float32))
    options = CalibrationOptions(method)

    end = float(np.float32(constant))
    expected = pytest.approx((min(end, 0), max(end, 0)), rel=1e-6)
    assert range_of(histogram, options, symmetric=False) == expected
    assert range_of(histogram, options, symmetric=True)[1] == pytest.approx(abs(end), rel=1e-6)


@pytest.mark.parametrize("method", HISTOGRAM_METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_scaled_tensor_has_a_scaled_range(method: str, symmetric: bool) -> None:
    values = _values("student")
    options = CalibrationOptions(method)
    one = range_of(_histogram(values), options, symmetric=symmetric)
    other = range_of(_histogram(values * 2.0**40), options, symmetric=symmetric)

    assert other == tuple(end * 2.0**40 for end in one)
