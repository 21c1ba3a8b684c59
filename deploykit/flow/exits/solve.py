"""Temperatures of all exits, thresholds for the target, and the curve between the extremes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.exits.temperature import calibration_error, fitted_temperature
from deploykit.compress.exits.thresholds import (
    Answers,
    Point,
    curve,
    exit_of,
    for_accuracy,
    for_cost,
    optimism,
    outcome,
)
from deploykit.flow.exits.loop import parse_latency
from deploykit.flow.exits.record import CurvePoint, ExitRow
from deploykit.runtimes.dynamic.rules import ENTROPY, PATIENCE, agreeing, probabilities, signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deploykit.flow.exits.cost import Costs
    from deploykit.flow.exits.loop import ExitsLoop
    from deploykit.flow.exits.said import Said

_POINTS = 100.0


@dataclass(frozen=True, slots=True)
class Solved:
    """What was found on the validation data.

    Attributes:
        rows: the exits, in order; of thresholds as the rule compares them.
        curve: cheapest first.
        accuracy: with these thresholds, 0 to 1.
        cost_ns: mean of a call, likewise.
        target: in words.
        met: whether it is reached; otherwise this is the nearest that there is.
    """

    rows: tuple[ExitRow, ...]
    curve: tuple[CurvePoint, ...]
    accuracy: float
    cost_ns: float
    target: str
    met: bool

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        """One an exit but the last."""
        return tuple(row.threshold for row in self.rows[:-1])

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Likewise."""
        return tuple(row.temperature for row in self.rows[:-1])


def sureness(rule: str, said: Said, temperatures: Sequence[float]) -> NDArray[np.float64]:
    """How sure every exit but the last is, higher is surer: [exits - 1, N]."""
    rows = []
    for number, temperature in enumerate(temperatures):
        if rule == PATIENCE:
            rows.append(agreeing(list(said.logits[: number + 1])).astype(np.float64))
        else:
            found = signal(rule, said.logits[number], temperature).astype(np.float64)
            rows.append(-found if rule == ENTROPY else found)
    return np.stack(rows)


def solve(said: Said, costs: Costs, loop: ExitsLoop, given: float, layers: Sequence[str]) -> Solved:
    """All of it.

    Args:
        said: of every exit on held-out data.
        costs: of them.
        loop: rule and target.
        given: accuracy of the network that was given, on the same data, 0 to 1.
        layers: of the exits but the last.
    """
    rule = loop.rule
    temperatures = [fitted_temperature(one, said.labels) for one in said.logits]
    sure = sureness(rule, said, temperatures[:-1])
    answers = Answers(said.right, sure, np.array(costs.exits_ns), whole=rule == PATIENCE)
    point, target, met = _chosen(answers, costs, loop, given)
    place = exit_of(sure, point.thresholds)
    written = tuple(_written(rule, one) for one in (*point.thresholds, None))
    rows = []
    for number, name in enumerate(said.exits):
        mine = place == number
        errors = [
            calibration_error(probabilities(said.logits[number], one), said.labels)
            for one in (1.0, temperatures[number])
        ]
        rows.append(
            ExitRow(
                name=name,
                layer=layers[number] if number < len(layers) else "",
                threshold=written[number],
                temperature=temperatures[number],
                error_before=errors[0],
                error_after=errors[1],
                accuracy=float(said.right[number].mean()),
                share=point.shares[number],
                accuracy_of_share=float(said.right[number][mine].mean()) if mine.any() else None,
                cost_ns=costs.exits_ns[number],
            )
        )
    points = tuple(
        CurvePoint(
            tuple(_written(rule, x) for x in one.thresholds), one.accuracy, one.cost, one.shares
        )
        for one in curve(answers)
    )
    return Solved(tuple(rows), points, point.accuracy, point.cost, target, met)


def _written(rule: str, threshold: float | None) -> float | None:
    """As the rule compares it."""
    if threshold is None:
        return None
    if rule == PATIENCE:
        return threshold
    return min(1.0, max(0.0, -threshold if rule == ENTROPY else threshold))


def _chosen(
    answers: Answers, costs: Costs, loop: ExitsLoop, given: float
) -> tuple[Point, str, bool]:
    """The thresholds for the target, what that is, and whether it is reached."""
    if loop.latency:
        value, share = parse_latency(loop.latency)
        whole = costs.exits_ns[-1] if costs.whole_ns is None else costs.whole_ns
        most = value * whole if share else value
        target = f"a mean latency of {most / 1e6:.4g} ms"
        found = for_cost(answers, most)
        if found is not None:
            return found, target, True
        return min(curve(answers), key=lambda point: point.cost), target, False
    drop = loop.drop / _POINTS
    # The own end may be better on this data, whose best epoch was chosen by it: what it has gained
    # by that it loses again on other data, and exits with it.
    base = max(given, float(answers.hits[-1].mean()))
    target = f"at most {loop.drop:g} points below {_POINTS * base:.2f} %"
    raised = optimism(answers, drop)
    for least in (base - drop + raised, base - drop):
        found = for_accuracy(answers, least)
        if found is not None:
            return found, target, True
    nobody = outcome(answers, (None,) * len(answers.sure))
    best = max((*curve(answers), nobody), key=lambda point: (point.accuracy, -point.cost))
    return best, target, False


def left_scores(said: Said, solved: Solved, rule: str) -> NDArray[np.float64]:
    """1 for each sample whose exit was right, else 0."""
    sure = sureness(rule, said, solved.temperatures)
    signed = [
        None if one is None else -one if rule == "entropy" else one for one in solved.thresholds
    ]
    place = exit_of(sure, tuple(signed))
    found: NDArray[np.float64] = said.right[place, np.arange(len(place))].astype(np.float64)
    return found
