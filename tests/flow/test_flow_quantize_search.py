"""Accuracy control as a search: what it tries, what it keeps, and what ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploykit.core.errors import BadInputError
from deploykit.flow.budget import Budget, Purse, parse_budget
from deploykit.flow.quantize.search import Found, Judged, Trial, search

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from deploykit.core.types import Option

LAYERS = tuple("abcdefghij")
LIMIT = 0.5


def looked_for(
    lost: Callable[[Trial], float],
    *,
    cheap: Sequence[Mapping[str, Option]] = (),
    order: Sequence[str] = LAYERS,
    evaluations: int = 100,
) -> Found:
    """A search with a loss that is a function of the trial."""

    def judge(trial: Trial) -> Judged:
        value = lost(trial)
        return Judged(value, 100, value <= LIMIT)

    return search(judge, cheap, lambda _: order, Purse(Budget(evaluations)))


def needs(culprits: Collection[str]) -> Callable[[Trial], float]:
    """Every culprit in integers costs a point."""
    return lambda trial: float(len(set(culprits) - set(trial.floats)))


def test_what_is_good_as_asked_is_not_searched() -> None:
    found = looked_for(needs(""), cheap=[{"method": "mse"}])

    assert [one.trial.text for one in found.tries] == ["as asked"]
    assert found.best.judged.met
    assert found.complete


def test_cheap_changes_go_first_and_on_top_of_each_other() -> None:
    def lost(trial: Trial) -> float:
        return 3.0 - trial.changes.get("method", 0) - 2.0 * bool(trial.changes.get("correct"))  # type: ignore[operator]  # numbers here

    found = looked_for(lost, cheap=[{"method": 1}, {"method": -1}, {"correct": True}, {"late": 1}])

    assert [one.trial.text for one in found.tries] == [
        "as asked", "method 1", "method -1", "method 1, correct",
    ]  # fmt: skip
    assert found.best.trial == Trial({"method": 1, "correct": True})


@pytest.mark.parametrize("culprits", ["a", "ab", "abc", "abcdefg", "abcdefghi"])
def test_as_few_layers_as_will_do_go_back(culprits: str) -> None:
    found = looked_for(needs(culprits))

    assert found.best.trial.floats == tuple(culprits)
    assert found.best.judged.met
    assert len(found.tries) <= 1 + 4 + 3 + 2 * len(culprits)


@pytest.mark.parametrize("culprits", ["c", "cf", "ag", "behi"])
def test_layers_that_did_no_harm_are_quantized_again(culprits: str) -> None:
    """The order is wrong: layers that harm nothing are ranked before those that do."""
    found = looked_for(needs(culprits))

    assert set(found.best.trial.floats) == set(culprits)


def test_the_best_change_stays_when_layers_go_back() -> None:
    def lost(trial: Trial) -> float:
        return needs("ab")(trial) + (0.0 if trial.changes.get("method") == "mse" else 1.0)

    found = looked_for(lost, cheap=[{"method": "mse"}, {"method": "entropy"}])

    assert found.best.trial == Trial({"method": "mse"}, ("a", "b"))


def test_nothing_helps_and_the_nearest_is_told() -> None:
    found = looked_for(lambda trial: 9.0 - 0.1 * len(trial.floats))

    assert not found.best.judged.met
    assert found.complete
    assert found.best.trial.floats == LAYERS[:-1]


def test_the_last_evaluation_of_a_budget_is_the_surest() -> None:
    found = looked_for(needs("abcdefg"), evaluations=3)

    assert [len(one.trial.floats) for one in found.tries] == [0, 1, 9]
    assert found.best.judged.met
    assert not found.complete


def test_a_budget_is_never_exceeded() -> None:
    for evaluations in range(1, 12):
        found = looked_for(
            needs("bdf"), cheap=[{"method": n} for n in range(20)], evaluations=evaluations
        )

        assert len(found.tries) <= evaluations


def test_cheap_changes_leave_half_of_the_budget() -> None:
    found = looked_for(
        needs("a"), cheap=[{"method": number} for number in range(50)], evaluations=10
    )

    assert found.best.judged.met
    assert found.best.trial.floats == ("a",)


def test_nothing_is_evaluated_twice() -> None:
    found = looked_for(needs("cf"), cheap=[{"method": "mse"}, {"method": "mse"}])

    trials = [one.trial for one in found.tries]
    assert all(trials.count(trial) == 1 for trial in trials)


def test_one_layer_alone_is_never_given_back() -> None:
    found = looked_for(needs("a"), order=("a",))

    assert not found.best.judged.met
    assert len(found.tries) == 1


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("1", Budget(1)), ("32", Budget(32)), ("90s", Budget(seconds=90)),
        ("1.5m", Budget(seconds=90)), ("2h", Budget(seconds=7200)), ("10min", Budget(seconds=600)),
    ],
)  # fmt: skip
def test_budgets_are_numbers_or_times(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["0", "", "1.5", "-3", "0s", "ten", "3 weeks"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="is no number of evaluations, such as 32, and no time"):
        parse_budget(text)


def test_a_time_that_is_up_ends_the_search() -> None:
    purse = Purse(Budget(seconds=1e-9))
    found = search(lambda _: Judged(9.0, 10, met=False), [], lambda _: LAYERS, purse)

    assert len(found.tries) == 1
    assert not found.complete
