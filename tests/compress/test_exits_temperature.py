"""Temperatures: found again where they are known, and probabilities that are true after them."""

from __future__ import annotations

import numpy as np
import pytest

from deploykit.compress.exits.temperature import (
    calibration_error,
    fitted_temperature,
    negative_log_likelihood,
)
from deploykit.core.errors import BadInputError
from deploykit.runtimes.dynamic.rules import probabilities


def _drawn(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits `temperature` times as large as those that the labels were drawn by."""
    draw = np.random.default_rng(0)
    true = draw.normal(0, 2, (20_000, 5))
    labels = np.array([draw.choice(5, p=row) for row in probabilities(true)])
    return true * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_by_is_found(temperature: float) -> None:
    logits, labels = _drawn(temperature)

    assert fitted_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_after_it_probabilities_are_true() -> None:
    logits, labels = _drawn(3.0)
    found = fitted_temperature(logits, labels)

    assert calibration_error(probabilities(logits), labels) > 0.1
    assert calibration_error(probabilities(logits, found), labels) < 0.02


def test_no_other_temperature_is_better() -> None:
    logits, labels = _drawn(2.0)
    found = fitted_temperature(logits, labels)
    best = negative_log_likelihood(logits, labels, found)

    for factor in (0.9, 0.99, 1.01, 1.1):
        assert negative_log_likelihood(logits, labels, found * factor) >= best


def test_all_right_is_as_cold_as_it_goes_and_no_sample_is_refused() -> None:
    logits = np.eye(3)[[0, 1, 2]]

    assert fitted_temperature(logits, np.arange(3)) < 0.05  # the loss is 0 to the last bit there
    with pytest.raises(BadInputError, match="held-out data"):
        fitted_temperature(logits[:0], np.arange(0))
