"""Metrics on outputs made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.check.metrics import MAE, METRICS, TOP_1, Array, metric_named, top_k
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path

LOGITS = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [1, 3, 2, 0]], dtype=np.float32)


def test_top_k_counts_the_label_among_the_highest() -> None:
    labels = np.array([0, 1, 2])

    assert top_k(1).scores([LOGITS], labels).tolist() == [1, 0, 0]
    assert top_k(2).scores([LOGITS], labels).tolist() == [1, 0, 1]
    assert top_k(3).scores([LOGITS], labels).tolist() == [1, 1, 1]


def test_top_1_is_argmax_with_ties_too() -> None:
    draws = np.random.default_rng(0)
    logits = draws.integers(0, 3, (500, 5)).astype(np.float32)
    labels = draws.integers(0, 5, 500)

    np.testing.assert_array_equal(
        TOP_1.scores([logits], labels), (logits.argmax(axis=1) == labels).astype(float)
    )


def test_constant_outputs_are_right_for_one_class_only() -> None:
    scores = TOP_1.scores([np.zeros((4, 4), np.float32)], np.arange(4))

    assert scores.tolist() == [1, 0, 0, 0]


def test_top_k_takes_the_first_output_and_any_type() -> None:
    outputs: list[Array] = [LOGITS.astype(np.int8), np.zeros((3, 7))]

    assert TOP_1.scores(outputs, np.array([0, 3, 1], dtype=np.uint8)).tolist() == [1, 1, 1]


def test_mae_is_by_sample() -> None:
    found = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)

    assert MAE.scores([found], np.array([[1.0, 4.0], [3.0, 4.5]])).tolist() == [1.0, 0.25]
    assert MAE.scores([found[:, :1]], np.array([2.0, 3.0])).tolist() == [1.0, 0.0]
    assert not MAE.higher_is_better


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 4]), "label 4 is outside the 4 classes"),
        (np.array([0, -1, 2]), "label -1 is outside the 4 classes"),
        (
            np.array([0.0, 1.0, 2.0]),
            r"whole-number labels of shape \[n\], not \[3, 4\] and float64",
        ),
        (np.zeros((3, 1), dtype=int), r"not \[3, 4\] and int64 \[3, 1\]"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels: Array, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        TOP_1.scores([LOGITS], labels)


def test_figures_without_meaning_are_refused() -> None:
    with pytest.raises(BadInputError, match="top-4 is always right with 4 classes"):
        top_k(4).scores([LOGITS], np.array([0, 1, 2]))
    with pytest.raises(BadInputError, match=r"mae takes labels of the output's shape \[3, 4\]"):
        MAE.scores([LOGITS], np.zeros((3, 3)))


def test_metrics_by_name() -> None:
    assert [metric_named(metric.name) for metric in METRICS] == list(METRICS)
    assert metric_named("top-3").scores([LOGITS], np.array([3, 0, 0])).tolist() == [0, 0, 1]
    with pytest.raises(BadInputError, match="there is no metric 'top1'; did you mean 'top-1'"):
        metric_named("top1")
    with pytest.raises(BadInputError, match="there is no metric 'top-0'"):
        metric_named("top-0")


def test_users_own_metrics(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def bounded(outputs, labels): return np.minimum(outputs[0][:, 0], labels)\n"
        "def mean(outputs, labels): return 0.5\n"
        "def bad(outputs, labels): return labels / 0.0\n"
        "def broken(outputs, labels): return outputs[7]\n"
    )
    labels = np.array([1, 1, 1])

    assert metric_named("mine.py:bounded", tmp_path).scores([LOGITS], labels).tolist() == [1, 0, 1]
    with pytest.raises(BadInputError, match=r"gave float64 of shape \[\] for 3 samples"):
        metric_named("mine.py:mean", tmp_path).scores([LOGITS], labels)
    with pytest.raises(BadInputError, match=r"mine.py:broken failed with IndexError: .*\(mine.py"):
        metric_named("mine.py:broken", tmp_path).scores([LOGITS], labels)
    with (
        np.errstate(divide="ignore"),
        pytest.raises(BadInputError, match="gave NaN or infinity for a sample"),
    ):
        metric_named("mine.py:bad", tmp_path).scores([LOGITS], labels)


def test_tokens_are_the_share_of_each_sequence_that_is_right() -> None:
    logits = np.eye(4)[[[0, 1, 2], [3, 3, 3]]]
    labels = np.array([[0, 1, 3], [3, -100, 1]])

    np.testing.assert_allclose(metric_named("tokens").scores([logits], labels), [2 / 3, 1 / 2])


def test_tokens_without_labels_or_of_another_shape_are_one_line() -> None:
    logits = np.zeros((2, 3, 4))
    tokens = metric_named("tokens")
    with pytest.raises(BadInputError, match=r"sample \(number 1 of its batch\) are all negative"):
        tokens.scores([logits], np.array([[0, 1, 2], [-1, -1, -1]]))
    with pytest.raises(BadInputError, match=r"whole-number labels of shape \[n, length\], not"):
        tokens.scores([logits], np.zeros((2, 2), np.int64))
