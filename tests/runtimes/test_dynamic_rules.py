"""Exit rules against figures written out by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from deploykit.core.errors import BadInputError
from deploykit.runtimes.dynamic.rules import (
    RULES,
    agreeing,
    check_threshold,
    leaves,
    probabilities,
    signal,
)

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]], np.float32))


def test_signals_are_those_of_the_probabilities() -> None:
    entropy = [-sum(p * log(p) for p in row) / log(3) for row in ([0.7, 0.2, 0.1],)]

    assert signal("confidence", LOGITS) == pytest.approx([0.7, 0.4])
    assert signal("margin", LOGITS) == pytest.approx([0.5, 0.05])
    assert signal("entropy", LOGITS)[:1] == pytest.approx(entropy)


def test_a_temperature_divides_the_logits() -> None:
    assert probabilities(LOGITS, 2.0) == pytest.approx(probabilities(LOGITS / 2))
    assert signal("confidence", LOGITS, 2.0)[0] < 0.7


@pytest.mark.parametrize(
    ("rule", "threshold", "wanted"),
    [
        ("confidence", 0.69, [True, False]),
        ("confidence", 0.71, [False, False]),
        ("margin", 0.05 - 1e-6, [True, True]),
        ("entropy", 0.8, [True, False]),
    ],
)
def test_the_surer_ones_leave(rule: str, threshold: float, wanted: list[bool]) -> None:
    assert leaves(rule, threshold, [LOGITS]).tolist() == wanted


def test_patience_counts_the_last_exits_that_agree() -> None:
    a, b = np.eye(2, dtype=np.float32)
    exits = [np.stack([a, a, b]), np.stack([a, b, a]), np.stack([a, a, a])]

    assert agreeing(exits).tolist() == [3, 1, 2]
    assert leaves("patience", 2, exits).tolist() == [True, False, True]
    assert leaves("patience", 2, exits[:1]).tolist() == [False, False, False]


def test_saturated_and_huge_logits_stay_numbers() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)

    for rule in RULES[:3]:
        assert np.isfinite(signal(rule, logits)).all()
    assert signal("entropy", logits).tolist() == [0.0]


@pytest.mark.parametrize(
    ("rule", "threshold", "text"),
    [
        ("confidence", 90, "from 0 to 1, not 90"),
        ("margin", -0.1, "from 0 to 1, not -0.1"),
        ("entropy", float("nan"), "from 0 to 1, not nan"),
        ("patience", 0, "1 or more, not 0"),
        ("patience", 2.5, "whole number"),
        ("confidense", 0.9, "did you mean"),
    ],
)
def test_thresholds_out_of_range_are_refused(rule: str, threshold: float, text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        check_threshold(rule, threshold)
