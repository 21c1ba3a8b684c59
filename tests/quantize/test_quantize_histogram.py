"""The histogram of a stream beside one that stores everything, in exact arithmetic."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.quantize.calibrate.chunks import CHUNK
from deploykit.quantize.calibrate.histogram import BINS, LEAST_EXPONENT, Histogram, grid_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
BATCHES = st.lists(st.lists(FLOATS | st.just(0.0), max_size=20), max_size=6)


def _seen(batches: Sequence[NDArray[Any]]) -> Histogram:
    made = Histogram()
    for batch in batches:
        made.add(batch)
    return made


def _bin_counts(histogram: Histogram) -> dict[int, int]:
    used = np.flatnonzero(histogram.counts)
    return {int(i) + histogram.grid.first: int(histogram.counts[i]) for i in used}


def _stored_counts(values: Sequence[float], exponent: int) -> dict[int, int]:
    """Every value divided by the width as a fraction: nothing is rounded."""
    width = Fraction(2) ** exponent
    counts: dict[int, int] = {}
    for value in values:
        at = floor(Fraction(value) / width)
        counts[at] = counts.get(at, 0) + 1
    return counts


@given(BATCHES)
def test_a_stream_is_counted_as_if_everything_were_stored(batches: list[list[float]]) -> None:
    streamed = _seen([np.array(batch, np.float32) for batch in batches])
    stored = [value for batch in batches for value in batch]

    assert _bin_counts(streamed) == _stored_counts(stored, streamed.grid.exponent)
    assert streamed.count == len(stored)
    assert streamed.zeros == stored.count(0.0)
    assert streamed.low == min(stored, default=np.inf)
    assert streamed.high == max(stored, default=-np.inf)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_float64_is_counted_exactly_too(values: list[float]) -> None:
    streamed = _seen([np.array([value]) for value in values])

    assert _bin_counts(streamed) == _stored_counts(values, streamed.grid.exponent)


@given(BATCHES, st.randoms())
def test_the_order_of_batches_does_not_matter(batches: list[list[float]], random: Any) -> None:
    arrays = [np.array(batch, np.float32) for batch in batches]
    forward = _seen(arrays)
    random.shuffle(arrays)
    shuffled = _seen(arrays)

    assert shuffled.grid == forward.grid
    assert (shuffled.counts == forward.counts).all()


@given(FLOATS, FLOATS)
def test_bins_are_as_fine_as_their_number_allows(one: float, other: float) -> None:
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    grid = grid_for(min(one, other), max(one, other))

    def needed(exponent: int) -> int:
        width = Fraction(2) ** exponent
        return floor(Fraction(high) / width) - floor(Fraction(low) / width) + 1

    assert grid.first == floor(Fraction(low) / Fraction(2) ** grid.exponent)
    assert needed(grid.exponent) <= BINS
    assert grid.exponent == LEAST_EXPONENT or needed(grid.exponent - 1) > BINS


@pytest.mark.parametrize(
    ("low", "high", "width"),
    [(0, 8191.5, 1), (0, 8192, 2), (-1, 8190.5, 1), (-1, 8191, 2), (5, 6, 2**-10), (-8191, -1, 1)],
)
def test_the_last_bin_is_used_before_the_width_doubles(
    low: float, high: float, width: float
) -> None:
    assert grid_for(low, high).width == width


@pytest.mark.parametrize(("sign", "least"), [((1,), 4096), ((-1,), 4095), ((-1, 1), 2048)])
@pytest.mark.parametrize("reach", [1.0, 1.001, 3.7, 1.999, 4096.0, 6e4])
def test_an_occupied_side_has_thousands_of_bins(
    sign: tuple[int, ...], least: int, reach: float
) -> None:
    steps = np.linspace(0, reach, 20_000, dtype=np.float32)[1:]
    histogram = _seen([steps * one for one in sign])

    for one in sign:
        side = histogram.positive() if one > 0 else histogram.negative()
        assert np.count_nonzero(side) >= least


def test_growth_by_any_factor_keeps_every_count() -> None:
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal(500) * 10.0**k).astype(np.float32) for k in range(-40, 38)]
    streamed = _seen(batches)
    stored = [float(value) for value in np.concatenate(batches)]

    assert _bin_counts(streamed) == _stored_counts(stored, streamed.grid.exponent)


def test_types_may_change_from_batch_to_batch() -> None:
    batches = [np.array([1e300, -1e-300]), np.array([-1, 0, 3e38], np.float32), np.array([7])]
    streamed = _seen(batches)
    stored = [float(value) for batch in batches for value in batch]

    assert _bin_counts(streamed) == _stored_counts(stored, streamed.grid.exponent)


def test_small_values_after_zeros_keep_their_resolution() -> None:
    values = np.linspace(0, 1e-6, 20_000, dtype=np.float32)
    streamed = _seen([np.zeros(9, np.float32), values])

    assert np.count_nonzero(streamed.counts) >= 4096
    assert streamed.zeros == 10


def test_edges_belong_to_the_bin_above_and_their_neighbours_below_to_the_one_below() -> None:
    edges = np.arange(-2000, 2001).astype(np.float32)
    values = np.concatenate([edges, np.nextafter(edges, np.float32(-np.inf))])
    streamed = _seen([values, np.array([4000.0, -4000.0], np.float32)])

    assert streamed.grid.width == 1.0
    expected = _stored_counts([*map(float, values), 4000.0, -4000.0], 0)
    assert _bin_counts(streamed) == expected


def test_a_tiny_negative_value_stays_below_zero_beside_a_huge_one() -> None:
    streamed = _seen([np.array([-1e-38, 1e38, 0.0, -0.0], np.float32)])

    assert streamed.negative().tolist() == [1]
    assert streamed.zeros == 2
    assert streamed.positive()[0] == 2


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8, np.int64, np.bool_]
)
def test_every_real_type_is_counted(dtype: Any) -> None:
    values = (np.random.default_rng(1).standard_normal(3000) * 3).astype(dtype)
    streamed = _seen([values])
    stored = [float(value) for value in values]

    assert streamed.count == 3000
    assert _bin_counts(streamed) == _stored_counts(stored, streamed.grid.exponent)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x, id="whole"),
        pytest.param(lambda x: x.T, id="transposed"),
        pytest.param(lambda x: x[::2, ::-3], id="strided"),
        pytest.param(lambda x: np.broadcast_to(x[0], (300, x.shape[1])), id="broadcast"),
        pytest.param(lambda x: x.astype(">f4"), id="foreign byte order"),
        pytest.param(lambda x: x[0, 0], id="scalar"),
    ],
)
def test_any_strides_and_more_than_a_chunk(view: Any) -> None:
    values = np.random.default_rng(2).standard_normal((400, 401)).astype(np.float32)
    assert values.size > CHUNK
    values = view(values)
    width = grid_for(float(values.min()), float(values.max())).width
    bins, counts = np.unique(np.floor(values.astype(np.float64) / width), return_counts=True)

    expected = {int(i): int(c) for i, c in zip(bins, counts, strict=True)}
    assert _bin_counts(_seen([values])) == expected


def test_what_is_not_finite_is_counted_apart() -> None:
    values = np.array([1.0, np.nan, -np.inf, 2.0, np.inf, np.nan], np.float32)
    mixed, none = _seen([values]), _seen([values[[1, 2, 5]]])

    assert (mixed.non_finite, mixed.count, mixed.low, mixed.high) == (4, 2, 1.0, 2.0)
    assert (none.non_finite, none.count, int(none.counts.sum())) == (3, 0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(value: float) -> None:
    streamed = _seen([np.array([1, value, 2], np.float32)])

    assert (streamed.non_finite, streamed.low, streamed.high) == (1, 1.0, 2.0)


@pytest.mark.parametrize("values", [[], [0.0] * 5, [7.25] * 5, [-1e-45], [1e-45, 1e30], [-3e38]])
def test_degenerate_values_are_counted(values: list[float]) -> None:
    array = np.array(values, np.float32)
    streamed = _seen([array, array[:0]])

    assert streamed.count == int(streamed.counts.sum()) == len(values)
    assert int(streamed.magnitudes().sum()) == len(values)


def test_magnitudes_fold_both_sides() -> None:
    values = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    values[0] = -9.0
    streamed = _seen([values])

    expected = np.bincount(np.floor(np.abs(values[1:]) / streamed.grid.width).astype(int))
    folded = streamed.magnitudes()
    # -9.0 is an edge: its bin ends there.
    assert folded.size == 9.0 / streamed.grid.width
    assert folded[-1] == 1
    assert (folded[: expected.size] == expected).all()


@pytest.mark.parametrize("strided", [False, True])
def test_a_large_array_takes_little_memory_beside_it(strided: bool) -> None:
    values = np.random.default_rng(4).standard_normal((2, 4 << 20), np.float32)
    values = values[:, ::2] if strided else values
    histogram = Histogram()
    tracemalloc.start()
    try:
        histogram.add(values)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert histogram.count == values.size
