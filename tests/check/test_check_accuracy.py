"""Accuracy of a callable on data, and the paired comparison of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deploykit.check.accuracy import Accuracy, Drop, accuracy, at_most, drop
from deploykit.check.intervals import mean_interval, paired_proportions, wilson
from deploykit.check.metrics import MAE, TOP_1
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.report import Verdict
from deploykit.core.types import Dim, TensorSpec
from deploykit.load.arrays import ArrayData

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = NDArray[Any]


def _data(count: int = 10) -> ArrayData:
    x = np.eye(4, dtype=np.float32)[np.arange(count) % 4]
    return ArrayData("made", {"x": x}, np.arange(count) % 3)


def _spec(first: int | Dim) -> tuple[TensorSpec, ...]:
    return (TensorSpec("x", "float32", (first, 4)),)


class _Echo:
    """Gives its input back, and remembers how it was called."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, feeds: Mapping[str, Array]) -> Sequence[Array]:
        self.sizes.append(len(feeds["x"]))
        return [feeds["x"]]


@pytest.mark.parametrize(
    ("first", "batch", "size"),
    [
        (Dim("N", 1, 64), 4, 4),
        (Dim("N", 1, 3), 4, 3),
        (Dim("N", 6, 64), 4, 6),
        (Dim("N", 4, 64, 4), 7, 4),
        (Dim("N"), 64, 10),
        (16, 4, 16),
        (3, 64, 3),
    ],
)
def test_every_batch_size_gives_the_same_scores(first: int | Dim, batch: int, size: int) -> None:
    run = _Echo()
    found = accuracy(run, _data(), _spec(first), TOP_1, batch)

    assert found.scores.tolist() == [float(row % 4 == row % 3) for row in range(10)]
    assert set(run.sizes) == {size}
    assert len(run.sizes) == -(-10 // size)


def test_the_value_is_the_share_with_wilsons_interval() -> None:
    found = accuracy(_Echo(), _data(), _spec(5), TOP_1)

    assert (found.value, found.count, found.is_share) == (0.3, 10, True)
    assert found.interval() == wilson(3, 10)


def test_an_error_has_the_interval_of_a_mean() -> None:
    data = ArrayData("made", {"x": np.zeros((3, 1), np.float32)}, np.array([0.5, 1.0, 3.0]))
    found = accuracy(lambda feeds: [feeds["x"]], data, (TensorSpec("x", "float32", (3, 1)),), MAE)

    assert found.value == 1.5
    assert found.interval() == mean_interval(np.array([0.5, 1.0, 3.0]))


def test_progress_ends_at_one() -> None:
    seen: list[float | None] = []
    accuracy(_Echo(), _data(), _spec(4), TOP_1, progress=lambda _, share: seen.append(share))

    assert seen == [0.4, 0.8, 1.0]


def test_what_cannot_be_scored_is_refused() -> None:
    bare = ArrayData("bare", {"x": np.zeros((2, 4), np.float32)})
    with pytest.raises(BadInputError, match="bare has no labels, and top-1 needs them"):
        accuracy(_Echo(), bare, _spec(2), TOP_1)
    with pytest.raises(BadInputError, match=r"output 0 has shape \[4, 5\] for 5 samples of made"):
        accuracy(lambda feeds: [feeds["x"].T], _data(), _spec(5), TOP_1)
    with pytest.raises(BadInputError, match="batch must be 1 or more, not 0"):
        accuracy(_Echo(), _data(), _spec(5), TOP_1, 0)


def test_nan_is_a_failed_check_that_names_the_sample() -> None:
    def run(feeds: Mapping[str, Array]) -> Sequence[Array]:
        return [np.where(feeds["x"][:, 3:] == 1, np.nan, feeds["x"])]

    with pytest.raises(CheckFailedError, match="output 0 is NaN for sample 3 of made"):
        accuracy(run, _data(), _spec(2), TOP_1)


def _scored(scores: Sequence[float], data: str = "made") -> Accuracy:
    return Accuracy(data, TOP_1, np.array(scores, dtype=np.float64))


def test_a_drop_is_paired_by_sample() -> None:
    reference = _scored([1, 1, 1, 1, 1, 1, 0, 0, 1, 0])
    candidate = _scored([1, 1, 1, 1, 0, 0, 1, 0, 0, 0])
    found = drop(reference, candidate)

    assert (found.value, found.lost, found.won) == (0.2, 3, 1)
    assert found.interval == paired_proportions(4, 3, 1, 2)
    assert drop(candidate, reference).value == -0.2


def test_a_drop_of_an_error_is_a_rise() -> None:
    reference = Accuracy("made", MAE, np.array([0.5, 0.5, 1.0]))
    candidate = Accuracy("made", MAE, np.array([0.75, 0.25, 1.75]))
    found = drop(reference, candidate)

    assert (found.value, found.lost, found.won) == (0.25, 2, 1)
    assert found.interval == mean_interval(np.array([0.25, -0.25, 0.75]))


def test_only_the_same_samples_are_compared() -> None:
    with pytest.raises(BadInputError, match=r"top-1 on made \(2 samples\) and top-1 on other \(2"):
        drop(_scored([1, 0]), _scored([1, 0], "other"))
    with pytest.raises(BadInputError, match=r"top-1 on made \(3 samples\)"):
        drop(_scored([1, 0]), _scored([1, 0, 1]))


def test_a_check_judges_the_point_estimate_in_points() -> None:
    found = Drop(0.007, (-0.001, 0.015), lost=9, won=2)
    passed, failed = at_most("accuracy", found, 0.7), at_most("accuracy", found, 0.69)

    assert passed.verdict is Verdict.PASSED
    assert (passed.value, passed.limit, passed.unit) == (0.7, 0.7, "points")
    assert passed.interval == pytest.approx((-0.1, 1.5))
    assert failed.verdict is Verdict.FAILED
    assert failed.advice == "9 samples got worse and 2 better"
    assert at_most("mae", found, 0.006, points=False).verdict is Verdict.FAILED
