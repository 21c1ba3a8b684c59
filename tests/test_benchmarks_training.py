"""What the benchmark of training works out of what its processes tell."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.training_one import BARE, TURNS, Clocks, Job, Took, do
from benchmarks.training_throughput import _apart, _ratio


def took(*pairs: tuple[float, float]) -> Took:
    # What the clock on the wall says is other processes' doing, too, and must not count.
    return Took(
        ours=[Clocks(ours, 9.0) for ours, _ in pairs],
        bare=[Clocks(bare, 1.0) for _, bare in pairs],
    )


def test_a_ratio_is_above_one_where_ours_is_faster() -> None:
    assert _ratio([took((1.0, 2.0), (1.0, 2.0))]) == pytest.approx((2.0, 2.0, 2.0))
    middle, low, high = _ratio([took((1, 1), (1, 2), (1, 9)), took((1, 0.5))])
    assert middle == pytest.approx(1.0)  # of the medians 2 and 1/2
    assert low < middle < high
    assert math.log(high) == pytest.approx(-math.log(low))


def test_a_distance_is_by_what_training_moved() -> None:
    start, one = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}

    assert _apart(one, {"w": torch.tensor([3.0, 4.5])}, start) == pytest.approx(0.1)
    assert _apart(one, one, start) == 0


@pytest.mark.slow
def test_both_loops_take_turns_and_the_first_epochs_do_not_count() -> None:
    found = do(Job(TURNS, "fashion_separable", epochs=2, images=32, batch=16))
    alone = do(Job(BARE, "fashion_separable", epochs=2, images=32, batch=16))

    assert len(found.ours) == len(found.bare) == len(found.judged) == len(alone.bare) == 1
    assert found.ours[0].cpu_s > 0
    assert found.foreseen_bytes > 0
    assert not alone.ours
