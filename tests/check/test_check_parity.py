"""Parity: how far apart two results are, and what is said of the worst output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.check.parity import LIMITS, compare, first_divergence, relative_difference
from deploykit.core.errors import BadInputError
from deploykit.core.report import Check, Verdict

if TYPE_CHECKING:
    from deploykit.load.data import Array

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("reference", "found", "difference"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.0, -3.0], 0.25),
        ([100.0, 0.0], [100.0, 1.0], 0.01),
        ([1e-6, -2e-6], [1e-6, -1e-6], 0.5),
        ([INF, -INF, 2.0], [INF, -INF, 1.0], 0.5),
        ([INF, 2.0], [-INF, 2.0], INF),
        ([1.0, 2.0], [NAN, 2.0], INF),
        ([NAN, 2.0], [NAN, 2.0], 0.0),
        ([1.0, 2.0], [INF, 2.0], INF),
        ([-1e308], [1e308], INF),
        ([], [], 0.0),
        ([[1.0, 2.0]], [1.0, 2.0], INF),
        ([INF], [INF], 0.0),
    ],
)
def test_the_largest_gap_over_the_largest_magnitude(
    reference: list[float], found: list[float], difference: float
) -> None:
    assert relative_difference(np.array(reference), np.array(found)) == pytest.approx(difference)


@pytest.mark.parametrize(
    ("reference", "found", "difference"),
    [
        ([0.0, 0.0], [0.0, 1e-3], 0.1),
        ([0.0, 1e-5], [0.0, 2e-5], 1e-3),
        ([0.5, 0.25], [0.5, 0.5], 0.5),
        ([1e-5, -1e-5], [1e-5, 1e-5], 2.0),
    ],
)
def test_probabilities_that_vanish_are_held_against_a_least_magnitude(
    reference: list[float], found: list[float], difference: float
) -> None:
    assert relative_difference(np.array(reference), np.array(found)) == pytest.approx(difference)


def test_the_figure_does_not_depend_on_the_scale() -> None:
    generator = np.random.default_rng(0)
    reference, noise = generator.standard_normal((2, 100))
    one = relative_difference(reference, reference + 1e-6 * noise)

    assert relative_difference(1e6 * reference, 1e6 * (reference + 1e-6 * noise)) == (
        pytest.approx(one, rel=1e-6)
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_limits_are_by_the_type_of_the_reference(dtype: str) -> None:
    reference: Array = np.array([1.0, -2.0], dtype)
    inside: Array = reference.astype(np.float64) * (1 + 0.9 * LIMITS[dtype])
    outside: Array = reference.astype(np.float64) * (1 + 1.1 * LIMITS[dtype])

    assert compare("c", {"y": reference}, {"y": inside}).verdict is Verdict.PASSED
    failed = compare("c", {"y": reference}, {"y": outside})
    assert failed.verdict is Verdict.FAILED
    assert failed.limit == LIMITS[dtype]
    assert failed.advice == "output 'y' differs"
    assert compare("c", {"y": reference}, {"y": outside}, limit=1.0).verdict is Verdict.PASSED


def test_integers_and_booleans_must_be_equal_whatever_the_limit() -> None:
    reference, found = np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])

    assert compare("c", {"y": reference}, {"y": reference}).value == 0.0
    assert compare("c", {"y": reference}, {"y": found}, limit=1.0) == Check(
        "c", Verdict.FAILED, value=0.25, limit=0.0, advice="output 'y' differs"
    )
    truth = np.array([True, False])
    assert compare("c", {"y": truth}, {"y": ~truth}).value == 1.0
    assert compare("c", {"y": reference[:0]}, {"y": reference[:0]}).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        ({}, "output 'y' is missing"),
        ({"y": np.ones((2, 3))}, "output 'y' has shape [2, 3], not [2, 2]"),
        ({"y": np.full((2, 2), NAN)}, "output 'y' has NaN where the network has none"),
        ({"y": np.zeros((2, 2))}, "output 'y' differs"),
    ],
)
def test_a_failure_says_what_is_wrong(found: dict[str, Array], advice: str) -> None:
    check = compare("parity ort-cpu N=1", {"y": np.ones((2, 2))}, found)

    assert check.name == "parity ort-cpu N=1"
    assert check.verdict is Verdict.FAILED
    assert check.advice == advice


def test_the_worst_output_is_the_one_that_is_told() -> None:
    reference = {name: np.ones(2) for name in "abc"}
    found = {"a": np.full(2, 1.1), "b": np.full(2, 1.5), "c": np.ones(2)}
    check = compare("c", reference, found)
    assert check.advice == "output 'b' differs"
    assert check.value == pytest.approx(0.5)

    close = {"a": np.ones(2), "b": np.full(2, 1 + 1e-12), "c": np.ones(2)}
    assert compare("c", reference, close).value == pytest.approx(1e-12, rel=1e-3)

    # A failure comes before a larger difference that is allowed.
    mixed = compare(
        "c", {"y": np.ones(2, np.float32), "n": np.array([1, 2, 3, 4])},
        {"y": np.full(2, 1.5, np.float32), "n": np.array([1, 2, 3, 5])}, limit=1.0,
    )  # fmt: skip
    assert mixed.advice == "output 'n' differs"


def test_a_network_that_gives_nan_is_refused() -> None:
    reference = {"y": np.array([1.0, NAN, NAN])}
    with pytest.raises(BadInputError) as caught:
        compare("c", reference, reference)
    assert str(caught.value) == (
        "the network itself gives NaN in output 'y' (2 of 3 values): mend the network or its "
        "input first"
    )


def test_the_first_divergence_is_the_first_in_order() -> None:
    reference = {name: np.ones(2) for name in "abcd"}
    found = {"d": np.zeros(2), "b": np.full(2, 2.0), "a": np.ones(2)}

    assert first_divergence("abcd", reference, found) == ("b", 1.0)
    assert first_divergence("dcba", reference, found) == ("d", 1.0)
    assert first_divergence("ac", reference, found) is None
    assert first_divergence("abcd", reference, found, limit=1.0) is None
