"""The record of a network with exits: where they are, what they say and cost, and the curve."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass

from deploykit.core.records import Schema
from deploykit.core.report import Check  # noqa: TC001  (likewise)
from deploykit.core.types import Option  # noqa: TC001  (likewise)

EXITS = Schema("deploykit/exits")


@dataclass(frozen=True, slots=True)
class ExitRow:
    """One exit; the last is the network's own end.

    Attributes:
        name: of the output with its logits.
        layer: behind which it sits; "" for the end.
        threshold: of the rule; `None`: nobody leaves here, and the artifact leaves it out.
        temperature: that its logits are divided by for the rule.
        error_before: expected calibration error on the validation data without the temperature,
            0 to 1.
        error_after: likewise, with it.
        accuracy: of this exit on all validation data, 0 to 1.
        share: of the validation data that leaves here.
        accuracy_of_share: of what leaves here; `None` where nothing does.
        cost_ns: of a call that leaves here, all before included, measured.
    """

    name: str
    layer: str
    threshold: float | None
    temperature: float
    error_before: float
    error_after: float
    accuracy: float
    share: float
    accuracy_of_share: float | None
    cost_ns: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One choice of thresholds; no other is more accurate at its cost.

    Attributes:
        thresholds: one an exit but the last; `None`: nobody leaves there.
        accuracy: on the validation data, 0 to 1.
        cost_ns: mean of a call.
        shares: that leave at each exit, the last one too.
    """

    thresholds: tuple[float | None, ...]
    accuracy: float
    cost_ns: float
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Exits:
    """All that was found.

    Attributes:
        rule: by which samples leave.
        rows: the exits, in order.
        curve: accuracy against cost over the whole range, cheapest first.
        target: what thresholds were solved for, in words.
        met: whether they reach it; otherwise they are the nearest that there is.
        given_accuracy: of the network that was given, on the validation data.
        accuracy: of the network with these thresholds, likewise.
        cost_ns: mean of a call, likewise.
        whole_ns: of the network that was given, measured beside the stages.
        batch: of these measurements.
        threads: likewise.
        max_drop: points that thresholds were solved for; `None`: for a latency.
        latency: that, as it was asked for; "" where it was not.
        runtime: of these measurements.
        samples: validation data that thresholds and temperatures were solved on.
        options: of adding exits.
        training: options of it; empty where nothing was trained.
        epochs: trained.
        best_epoch: counted from 1; 0: the weights from before training.
        seconds: of training.
        checks: as in report.json.
    """

    rule: str
    rows: tuple[ExitRow, ...]
    curve: tuple[CurvePoint, ...]
    target: str
    met: bool
    given_accuracy: float
    accuracy: float
    cost_ns: float
    whole_ns: float
    batch: int
    threads: int
    max_drop: float | None
    latency: str
    runtime: str
    samples: int
    options: Mapping[str, Option]
    training: Mapping[str, Option]
    epochs: int = 0
    best_epoch: int = 0
    seconds: float = 0.0
    checks: tuple[Check, ...] = ()
