"""Figures before and after, beside their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.check.accuracy import Accuracy
from deploykit.check.metrics import metric_named
from deploykit.compress.prune.options import PruneOptions
from deploykit.compress.prune.plan import Cut, Plan
from deploykit.compress.prune.structure import Exactness, Group, Member, Role, Structure
from deploykit.core.report import Verdict
from deploykit.flow.accuracy import lost_check
from deploykit.flow.prune.judge import accuracy_checks, aim_check, oracle_check
from deploykit.flow.prune.record import RoundRow, Size
from deploykit.flow.prune.rounds import Stand
from deploykit.flow.prune.size import kept_of, network_of
from deploykit.flow.rebuild import load_model
from deploykit.load.inputs import parse_inputs
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import Model


def member(name: str, rows: list[list[int]]) -> Member:
    return Member(name, 0, np.array(rows), Role.WRITES)


STRUCTURE = Structure(
    (
        Group("a", 4, (member("a.weight", [[0], [1], [2], [3]]),)),
        Group("heads", 2, (member("b.weight", [[0, 1], [2, 3]]),), unit=2),
        Group("c", 6, (member("c.weight", [[n] for n in range(6)]),), Exactness.APPROXIMATE),
        Group("out", 3, (member("d.weight", [[0], [1], [2]]),), locked="is an output"),
    )
)
PLAN = Plan((Cut("a.weight", 0, 4, (1, 3)), Cut("b.weight", 0, 4, (2, 3))))


def share(right: str, data: str = "d") -> Accuracy:
    return Accuracy(data, metric_named("top-1"), np.array([float(c) for c in right]))


def stand(size: Size) -> Stand:
    model: Model = None  # type: ignore[assignment]  # not looked at
    return Stand(model, PLAN, (RoundRow(Size(1, 1.0)), RoundRow(size)))


def test_channels_are_counted_whole() -> None:
    assert kept_of(STRUCTURE, PLAN) == {"a": 2, "heads": 1, "c": 6, "out": 3}


@pytest.mark.parametrize(
    ("options", "value", "verdict"),
    [
        (PruneOptions(ratio=0.6), 0.4, Verdict.PASSED),
        (PruneOptions(ratio=0.61), 0.4, Verdict.FAILED),
        (PruneOptions(ratio=0.3, of="parameters"), 0.7, Verdict.PASSED),
        (PruneOptions(ratio=0.25, of="channels"), 0.75, Verdict.PASSED),  # 9 of 12
        (PruneOptions(ratio=0.5, of="channels", exactness="exact"), 0.5, Verdict.PASSED),  # 3 of 6
        (PruneOptions(ratio=0.5, of="channels", exclude=("a",)), 0.875, Verdict.FAILED),  # 7 of 8
    ],
)
def test_what_is_left_is_held_against_what_was_asked(
    options: PruneOptions, value: float, verdict: Verdict
) -> None:
    check = aim_check(options, STRUCTURE, stand(Size(70, 40.0)), Size(100, 100.0))

    assert check.name == f"{options.of} left"
    assert check.value == pytest.approx(value)
    assert check.limit == pytest.approx(1 - options.ratio)
    assert check.verdict is verdict
    assert bool(check.advice) == (verdict is Verdict.FAILED)


def test_accuracy_stands_before_and_after_with_what_was_lost() -> None:
    before = {"val": share("1111111100"), "eval": share("1111100000", "e")}
    after = {"val": share("1111111000"), "eval": share("0000000000", "e")}
    checks = accuracy_checks(before, after, 5.0)

    assert [(c.name, c.value, c.limit, c.verdict, c.unit) for c in checks] == [
        ("top-1 before val: d", 80.0, None, Verdict.PASSED, "%"),
        ("top-1 after val: d", 70.0, None, Verdict.PASSED, "%"),
        ("top-1 lost val: d", 10.0, 5.0, Verdict.FAILED, "points"),
        ("top-1 before eval: e", 50.0, None, Verdict.PASSED, "%"),
        ("top-1 after eval: e", 0.0, None, Verdict.PASSED, "%"),
        ("top-1 lost eval: e", 50.0, None, Verdict.PASSED, "points"),  # it only reports
    ]
    assert checks[2].advice == "1 samples got worse and 0 better"
    assert all(check.interval is not None for check in checks)


def test_a_drop_of_just_the_limit_passes() -> None:
    was, now = share("1" * 1000), share("1" * 993 + "0" * 7)

    assert lost_check("", was, now, 0.7).verdict is Verdict.PASSED
    assert lost_check("", was, now, 0.69).verdict is Verdict.FAILED


def test_the_oracle_leaves_out_what_is_approximate(nets: Path) -> None:
    inputs = parse_inputs(("x=N[1..8]x1x8x8",))
    model = load_model(Source(f"{nets}/net.py:build", inputs=inputs))
    network = network_of(model, PruneOptions())
    cuts = [
        Cut(member.parameter, member.dim, 8, tuple(range(4)))
        for member in network.structure.groups[0].members
    ]
    check = oracle_check(network.program, network.structure, Plan(tuple(cuts)), inputs)

    assert check.name == "cut against the network with those channels at zero, float64"
    assert check.verdict is Verdict.PASSED
    assert check.value is not None
    assert check.value < 1e-12
    assert check.limit == 1e-9
