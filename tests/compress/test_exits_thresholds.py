"""Thresholds against every choice there is, on problems small enough for that."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from deploykit.compress.exits.thresholds import (
    Answers,
    curve,
    exit_of,
    for_accuracy,
    for_cost,
    optimism,
    outcome,
)
from deploykit.core.errors import BadInputError


def _answers(seed: int, exits: int = 3, count: int = 40) -> Answers:
    """Exits that are surer where they are right, and right more often the later they come."""
    draw = np.random.default_rng(seed)
    hard = draw.uniform(size=count)
    right = np.stack([hard < 0.6 + 0.35 * (k + 1) / exits for k in range(exits)])
    right ^= draw.uniform(size=right.shape) < 0.05
    sure = 1 - hard[None] + 0.2 * draw.normal(size=(exits - 1, count))
    return Answers(right, sure, np.cumsum(draw.uniform(0.5, 1.5, exits)))


def _every(answers: Answers) -> list[tuple[float, float]]:
    """Accuracy and cost of every choice of thresholds."""
    cuts = [[None, *np.unique(row)] for row in answers.sure]
    points = [outcome(answers, chosen) for chosen in product(*cuts)]
    return [(point.accuracy, point.cost) for point in points]


@pytest.mark.parametrize("seed", range(6))
def test_the_cheapest_for_an_accuracy_is_that_of_all_choices(seed: int) -> None:
    answers = _answers(seed)
    least = float(answers.hits[-1].mean()) - 0.05

    found = for_accuracy(answers, least)

    best = min(cost for accuracy, cost in _every(answers) if accuracy >= least)
    assert found is not None
    assert found.accuracy >= least
    assert found.cost <= best * 1.03


@pytest.mark.parametrize("seed", range(6))
def test_the_most_accurate_for_a_cost_is_that_of_all_choices(seed: int) -> None:
    answers = _answers(seed)
    most = float(answers.costs[0] * 0.5 + answers.costs[-1] * 0.5)

    found = for_cost(answers, most)

    best = max(accuracy for accuracy, cost in _every(answers) if cost <= most)
    assert found is not None
    assert found.cost <= most
    assert found.accuracy >= best - 0.026  # one sample of forty


def test_of_two_exits_the_choice_is_exact() -> None:
    answers = _answers(3, exits=2, count=200)
    least = float(answers.hits[-1].mean()) - 0.01

    found = for_accuracy(answers, least)

    assert found is not None
    best = min(cost for accuracy, cost in _every(answers) if accuracy >= least)
    assert found.cost == pytest.approx(best)


def test_a_point_is_what_its_thresholds_give() -> None:
    answers = _answers(1)
    for point in curve(answers):
        place = exit_of(answers.sure, point.thresholds)
        right = [answers.right[k, n] for n, k in enumerate(place)]

        assert point.accuracy == pytest.approx(np.mean(right))
        assert point.cost == pytest.approx(np.mean(answers.costs[place]))
        assert point.shares == pytest.approx([np.mean(place == k) for k in range(3)])


def test_the_curve_rises_from_the_first_exit_to_the_best() -> None:
    answers = _answers(2, count=400)
    points = curve(answers)

    costs, scores = [p.cost for p in points], [p.accuracy for p in points]
    assert costs == sorted(costs)
    assert scores == sorted(scores)
    assert points[0].shares[0] == 1.0
    assert scores[-1] >= answers.hits[-1].mean()


def test_targets_out_of_reach_are_none() -> None:
    answers = _answers(4)

    assert for_accuracy(answers, 1.01) is None
    assert for_cost(answers, answers.costs[0] * 0.99) is None


def test_equally_sure_samples_leave_together() -> None:
    right = np.array([[True, False, True], [True, True, True]])
    answers = Answers(right, np.array([[2.0, 2.0, 1.0]]), np.array([1.0, 2.0]), whole=True)

    found = for_accuracy(answers, 1.0)

    assert found is not None
    assert found.thresholds == (None,)  # whoever takes the first takes the second, which is wrong


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"2 exits of 3 samples need \[1, 3\]"):
        Answers(np.ones((2, 3), bool), np.ones((2, 3)), np.ones(2))


def test_thresholds_solved_on_noise_look_better_than_they_are() -> None:
    draw = np.random.default_rng(3)
    right = draw.random((3, 400)) < np.array([[0.8], [0.82], [0.9]])
    noise = Answers(right, draw.random((2, 400)), np.array([1.0, 2.0, 4.0]))
    point = for_accuracy(noise, float(right[-1].mean()) - 0.02)
    assert point is not None
    fresh = draw.random((3, 100_000)) < np.array([[0.8], [0.82], [0.9]])
    unseen = Answers(fresh, draw.random((2, 100_000)), noise.costs)
    lost = float(fresh[-1].mean()) - 0.02 - outcome(unseen, point.thresholds).accuracy
    found = optimism(noise, 0.02)
    assert lost > 0.005
    assert 0.3 * lost < found < 3 * lost


def test_exits_that_know_when_they_are_right_leave_nothing_to_correct() -> None:
    right = np.array([[True] * 300 + [False] * 100, [True] * 400])
    order = np.random.default_rng(0).permutation(400)
    sure = np.where(right[0], 0.9, 0.1)[None, order]
    answers = Answers(right[:, order], sure, np.array([1.0, 4.0]))
    assert optimism(answers, 0.0) == 0.0
