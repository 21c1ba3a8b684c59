"""Thresholds for a target, from what every exit answered on held-out data. NumPy only.

Of all exits but the last, the threshold of one is moved while the others stay: samples are sorted
by how sure the exit is, and cumulative sums give accuracy and cost of every place to cut, so that
the best one is exact. In turn until nothing moves (coordinate descent), from several starts. Not
convex, so that the best of all is not promised; with two exits it is found, since there is one
threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Thresholds: TypeAlias = tuple[float | None, ...]
Floats: TypeAlias = NDArray[np.float64]
_Better: TypeAlias = "Callable[[Floats, Floats], int]"

_MOST_TURNS = 30
_PRICES = 48
_FOLDS, _FEWEST_OF_FOLD = 5, 20
_START_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Answers:
    """What each exit answered on held-out data; the last one is the whole network.

    Attributes:
        right: [exits, N], whether it was.
        sure: [exits - 1, N], higher is surer.
        costs: [exits], of a sample that leaves there, all that it ran before included. Any unit.
        whole: whether thresholds lie on the values of `sure`, not between two: patience counts.
    """

    right: NDArray[np.bool_]
    sure: Floats
    costs: Floats
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuse shapes that do not belong together."""
        exits, count = self.right.shape
        if self.sure.shape != (exits - 1, count) or self.costs.shape != (exits,) or not count:
            raise BadInputError(
                f"{exits} exits of {count} samples need [{exits - 1}, {count}] of how sure they "
                f"are and [{exits}] costs, not {list(self.sure.shape)} and "
                f"{list(self.costs.shape)}"
            )

    @cached_property
    def hits(self) -> Floats:
        """`right` as numbers."""
        return self.right.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Point:
    """One choice of thresholds, and what it gives on the held-out data.

    Attributes:
        thresholds: one an exit but the last; who is as sure or surer leaves. `None`: nobody does.
        accuracy: 0 to 1.
        cost: mean.
        shares: of the samples that leave at each exit, the last one too.
    """

    thresholds: Thresholds
    accuracy: float
    cost: float
    shares: tuple[float, ...]


def exit_of(sure: Floats, thresholds: Thresholds) -> NDArray[np.int64]:
    """Number of the exit at which each sample leaves: [N], from 0.

    Args:
        sure: [exits - 1, N].
        thresholds: one each.
    """
    place = np.full(sure.shape[1], len(thresholds), np.int64)
    for number in reversed(range(len(thresholds))):
        threshold = thresholds[number]
        if threshold is not None:
            place[sure[number] >= threshold] = number
    return place


def outcome(answers: Answers, thresholds: Thresholds) -> Point:
    """What thresholds give."""
    place = exit_of(answers.sure, thresholds)
    count = len(place)
    shares = np.bincount(place, minlength=len(answers.costs)) / count
    accuracy = float(answers.hits[place, np.arange(count)].mean())
    return Point(thresholds, accuracy, float(shares @ answers.costs), tuple(shares.tolist()))


def curve(answers: Answers) -> tuple[Point, ...]:
    """Accuracy against cost over the whole range, cheapest first; no point beats another in both.

    Each is the best of accuracy - price * cost for one of many prices.
    """
    span = float(answers.costs.max() - answers.costs.min()) or 1.0
    prices = np.geomspace(1e-3, 1e2, _PRICES) / span
    found = [outcome(answers, start) for start in _starts(answers)]
    for start in tuple(found):
        point = start
        for price in prices:

            def best(accuracy: Floats, cost: Floats, price: float = price) -> int:
                return int(np.argmax(accuracy - price * cost))

            point = _descend(answers, point.thresholds, best)
            found.append(point)
    return _front(found)


def for_accuracy(answers: Answers, least: float) -> Point | None:
    """The cheapest thresholds that are at least so accurate; `None` where there are none.

    Args:
        answers: on held-out data.
        least: 0 to 1.
    """
    slack = 1e-12 * len(answers.right[0])  # cumulative sums round

    def best(accuracy: Floats, cost: Floats) -> int:
        allowed = accuracy >= least - slack
        return int(np.argmin(np.where(allowed, cost, np.inf)))

    points = curve(answers)
    allowed = [point for point in points if point.accuracy >= least]
    if not allowed:
        return None
    tried = [_descend(answers, point.thresholds, best) for point in allowed]
    return min((*allowed, *(x for x in tried if x.accuracy >= least)), key=lambda x: x.cost)


def optimism(answers: Answers, drop: float, folds: int = _FOLDS) -> float:
    """How much more accurate thresholds look on the samples that they were solved on: 0 or more.

    Solved on four fifths of the data they are judged on the fifth that they have not seen, each
    fifth in its turn (Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions",
    1974): what is missing there to the target is what the target must be raised by.

    Args:
        answers: on held-out data.
        drop: 0 to 1, that may be lost against the last exit.
        folds: into which the samples go in turn.

    Returns:
        The difference, 0 to 1; 0 where there are too few samples to tell.
    """
    count = answers.right.shape[1]
    if count < folds * _FEWEST_OF_FOLD:
        return 0.0
    fold = np.arange(count) % folds
    missing = 0.0
    for number in range(folds):
        seen, unseen = (_some(answers, fold != number), _some(answers, fold == number))
        point = for_accuracy(seen, float(seen.hits[-1].mean()) - drop)
        if point is None:  # nobody leaves: that cannot be
            continue
        wanted = float(unseen.hits[-1].mean()) - drop
        found = outcome(unseen, point.thresholds).accuracy
        missing += (wanted - found) * int((fold == number).sum())
    return float(max(0.0, missing / count))


def _some(answers: Answers, which: NDArray[np.bool_]) -> Answers:
    return Answers(answers.right[:, which], answers.sure[:, which], answers.costs, answers.whole)


def for_cost(answers: Answers, most: float) -> Point | None:
    """The most accurate thresholds of at most this mean cost; `None` where there are none."""
    slack = 1e-12 * abs(most)

    def best(accuracy: Floats, cost: Floats) -> int:
        allowed = cost <= most + slack
        return int(np.argmax(np.where(allowed, accuracy, -np.inf)))

    points = curve(answers)
    allowed = [point for point in points if point.cost <= most]
    if not allowed:
        return None
    tried = [_descend(answers, point.thresholds, best) for point in allowed]
    return max((*allowed, *(x for x in tried if x.cost <= most)), key=lambda x: x.accuracy)


def _starts(answers: Answers) -> tuple[Thresholds, ...]:
    """Nobody leaves early, everyone does, and equal shares between."""
    none: Thresholds = (None,) * len(answers.sure)
    rows = [
        tuple(float(np.quantile(row, 1 - share, method="lower")) for row in answers.sure)
        for share in _START_SHARES
    ]
    return (none, *(row for row in rows if row))


def _descend(answers: Answers, thresholds: Thresholds, best: _Better) -> Point:
    """Move one threshold after the other to its best place until nothing changes."""
    for _ in range(_MOST_TURNS):
        before = thresholds
        for number in range(len(thresholds)):
            moved = _moved(answers, thresholds, number, best)
            thresholds = (*thresholds[:number], moved, *thresholds[number + 1 :])
        if thresholds == before:
            break
    return outcome(answers, thresholds)


def _moved(answers: Answers, thresholds: Thresholds, number: int, best: _Better) -> float | None:
    """The best threshold of one exit, the others being what they are."""
    without = (*thresholds[:number], None, *thresholds[number + 1 :])
    place = exit_of(answers.sure, without)
    rows = np.arange(len(place))
    hits, costs = answers.hits[place, rows], answers.costs[place]
    reached = np.flatnonzero(place > number)
    sure = answers.sure[number][reached]
    order = np.argsort(-sure, kind="stable")
    reached, sure = reached[order], sure[order]
    gained = np.concatenate([[0.0], np.cumsum(answers.hits[number][reached] - hits[reached])])
    spent = np.concatenate([[0.0], np.cumsum(answers.costs[number] - costs[reached])])
    # After j samples, where the next is less sure: equal ones leave together.
    ends = np.concatenate([[True], sure[1:] < sure[:-1], [True]]) if len(sure) else np.array([True])
    places = np.flatnonzero(ends)
    count = len(place)
    chosen = int(
        places[best((hits.sum() + gained[places]) / count, (costs.sum() + spent[places]) / count)]
    )
    if chosen == 0:
        return None
    last = float(sure[chosen - 1])
    if answers.whole or chosen == len(sure):
        return last
    return (last + float(sure[chosen])) / 2  # halfway, where unseen samples are as likely to fall


def _front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those that no other beats in accuracy and cost, cheapest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda x: (x.cost, -x.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return tuple(kept)
