"""Observers beside formulas over all stored batches; options and what they refuse."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.core.errors import BadInputError
from deploykit.quantize.calibrate.chunks import CHUNK
from deploykit.quantize.calibrate.methods import range_of
from deploykit.quantize.calibrate.observe import HistogramObserver, observer
from deploykit.quantize.calibration_options import METHODS, CalibrationOptions

BATCHES = st.lists(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)


@given(BATCHES)
def test_min_max_is_that_of_all_stored_values_to_the_bit(batches: list[list[float]]) -> None:
    watch = observer(CalibrationOptions("min-max"), symmetric=False)
    for batch in batches:
        watch.add(np.array(batch, np.float32))
    stored = np.concatenate([np.array(batch, np.float32) for batch in batches])

    found = watch.range("x")
    assert (np.float32(found.low), np.float32(found.high)) == (stored.min(), stored.max())
    assert (found.tensor, found.low, found.high) == ("x", float(stored.min()), float(stored.max()))


@given(BATCHES, st.floats(0.01, 1))
def test_the_moving_average_weighs_batches_as_its_closed_form_says(
    batches: list[list[float]], averaging: float
) -> None:
    options = CalibrationOptions("moving-average", averaging=averaging)
    watch = observer(options, symmetric=False)
    for batch in batches:
        watch.add(np.array(batch, np.float32))
    last = len(batches) - 1
    weights = [(1 - averaging) ** last]
    weights += [averaging * (1 - averaging) ** (last - k) for k in range(1, last + 1)]

    found = watch.range("x")
    size = max(abs(value) for batch in batches for value in batch)
    for end, extreme in ((found.low, min), (found.high, max)):
        expected = sum(w * extreme(batch) for w, batch in zip(weights, batches, strict=True))
        assert end == pytest.approx(expected, rel=1e-9, abs=1e-9 * size)


def test_one_add_is_one_batch_however_large() -> None:
    watch = observer(CalibrationOptions("moving-average"), symmetric=True)
    watch.add(np.linspace(0, 1, 3 * CHUNK, dtype=np.float32))
    watch.add(np.empty((0, 3), np.float32))
    watch.add(np.linspace(-1, 2, 2 * CHUNK + 1, dtype=np.float32))

    found = watch.range("x")
    assert (found.low, found.high) == pytest.approx((-0.01, 1.01))


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_histogram_observer_answers_with_its_method(method: str, symmetric: bool) -> None:
    options = CalibrationOptions(method, percentile=99, bits=4)
    watch = observer(options, symmetric=symmetric)
    rng = np.random.default_rng(0)
    for _ in range(5):
        watch.add(rng.standard_normal((4, 3, 10)).astype(np.float16))
    assert isinstance(watch, HistogramObserver)

    found = watch.range("conv1")
    expected = range_of(watch.histogram, options, symmetric=symmetric)
    assert (found.tensor, found.low, found.high) == ("conv1", *expected)
    assert watch.histogram.count == 600


@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_not_finite_are_refused_with_the_tensors_name(method: str) -> None:
    watch = observer(CalibrationOptions(method), symmetric=False)
    watch.add(np.array([1, 2], np.float32))
    assert watch.non_finite == 0
    watch.add(np.array([np.nan, 1, np.inf, -np.inf], np.float32))
    assert watch.non_finite == 3

    with pytest.raises(BadInputError) as refused:
        watch.range("layer1/relu")
    assert str(refused.value) == (
        "tensor 'layer1/relu' has 3 values that are NaN or infinite on the calibration data; "
        "leave out the samples that cause it, or mend the network"
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_single_nan_is_refused_in_the_singular(method: str) -> None:
    watch = observer(CalibrationOptions(method), symmetric=False)
    watch.add(np.array([np.nan], np.float64))

    with pytest.raises(BadInputError, match=r"^tensor 'x' has 1 value that is NaN or infinite "):
        watch.range("x")


@pytest.mark.parametrize("method", METHODS)
def test_no_values_are_refused_with_the_tensors_name(method: str) -> None:
    watch = observer(CalibrationOptions(method), symmetric=False)
    watch.add(np.empty((0, 64), np.float32))

    with pytest.raises(BadInputError) as refused:
        watch.range("x")
    assert str(refused.value) == (
        "tensor 'x' got no values during calibration; give at least one sample that reaches it"
    )


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_depend_on_the_number_of_batches(method: str) -> None:
    watch = observer(CalibrationOptions(method), symmetric=False)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal(2000).astype(np.float32) * k for k in range(1, 11)]
    watch.add(batches[0])
    tracemalloc.start()
    try:
        for _ in range(20):
            for batch in batches:
                watch.add(batch)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # At most a histogram that moved to a wider grid: 64 kB of bins, not 1.6 MB of values.
    assert kept < 80_000


_PERCENT = "give the share of values to keep, in percent, above 50 and at most 100, such as 99.99"
_NEWEST = "give the weight of the newest batch, above 0 and at most 1, such as 0.01"
_ALL = "entropy, min-max, moving-average, mse, percentile"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "entropie"}, "no calibration method 'entropie'; did you mean 'entropy'?"),
        ({"method": "?"}, f"no calibration method '?'; known: {_ALL}"),
        ({"percentile": 0.9999}, f"percentile is 0.9999; {_PERCENT}"),
        ({"percentile": 101.0}, f"percentile is 101; {_PERCENT}"),
        ({"percentile": float("nan")}, f"percentile is nan; {_PERCENT}"),
        ({"bits": 16}, "bits is 16; give a whole number from 2 to 8"),
        ({"bits": 7.5}, "bits is 7.5; give a whole number from 2 to 8"),
        ({"bits": 1}, "bits is 1; give a whole number from 2 to 8"),
        ({"averaging": 0.0}, f"averaging is 0; {_NEWEST}"),
        ({"averaging": 1.5}, f"averaging is 1.5; {_NEWEST}"),
        ({"memory": "2"}, "memory '2' is no size; give one such as 2GB or 800MB"),
        ({"memory": "2 GX"}, "memory '2 GX' is no size; give one such as 2GB or 800MB"),
        ({"memory": "0GB"}, "memory '0GB' is no size; give one such as 2GB or 800MB"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError) as refused:
        CalibrationOptions(**options)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("memory", "size"),
    [("", 0), ("2GB", 2_000_000_000), ("1.5 gb", 1_500_000_000), ("1GiB", 1 << 30), ("7B", 7)],
)
def test_sizes_of_memory_are_read(memory: str, size: int) -> None:
    assert CalibrationOptions(memory=memory).memory_bytes == size
