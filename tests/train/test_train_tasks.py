"""Losses by the labels: each against its formula, several outputs, and what does not fit."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor, nn

from deploykit.core.errors import BadInputError
from deploykit.train.objective import Step, Target, Term, labels_alone, total
from deploykit.train.options import TrainOptions
from deploykit.train.tasks import Task, cross_entropy, task_for

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.25, 1.0], [0.0, 3.0, 1.0]])
LABELS = torch.tensor([0, 2, 0])


def _value(terms: dict[str, Term]) -> Tensor:
    return total(terms)


@pytest.mark.parametrize(
    ("labels", "losses", "metric"),
    [
        (LABELS, ("cross-entropy",), "accuracy"),
        (LABELS.to(torch.uint8), ("cross-entropy",), "accuracy"),
        (torch.zeros(2, 7, dtype=torch.int64), ("tokens",), "accuracy"),
        (torch.zeros(2, 5, 5, dtype=torch.int64), ("cross-entropy",), "accuracy"),
        (torch.zeros(2), ("mse",), "loss"),
        (torch.zeros(2, 4, dtype=torch.float64), ("mse",), "loss"),
    ],
)
def test_labels_suggest_a_loss(labels: Tensor, losses: tuple[str, ...], metric: str) -> None:
    task = task_for(TrainOptions(), labels)

    assert (task.losses, task.metric) == (losses, metric)


def test_label_smoothing_is_a_mixture_of_two_cross_entropies() -> None:
    logs = LOGITS.log_softmax(dim=1)[0]
    expected = -(0.9 * logs[0] + 0.1 * logs.mean())

    torch.testing.assert_close(cross_entropy(LOGITS[:1], LABELS[:1], 0.1), expected)


def test_negative_class_numbers_are_no_labels() -> None:
    labels = torch.tensor([0, -1, -100])
    expected = -LOGITS.log_softmax(dim=1)[0, 0]

    torch.testing.assert_close(cross_entropy(LOGITS, labels), expected)
    torch.testing.assert_close(cross_entropy(LOGITS, labels, items=4.0), expected / 4)
    assert cross_entropy(LOGITS, torch.full((3,), -100)).item() == 0
    task = Task()
    right, count = task.score(LOGITS, torch.tensor([0, -1, 0]))
    assert (int(right), count) == (1, 2)


def test_parts_of_a_batch_add_up_to_the_whole_whoever_has_the_labels() -> None:
    labels = torch.tensor([0, -1, 0])
    whole = cross_entropy(LOGITS, labels)
    parts = [(LOGITS[:2], labels[:2]), (LOGITS[2:], labels[2:])]
    # Two parts, each divided by its equal share of the two labels.
    found = sum(cross_entropy(*part, items=1.0) for part in parts) / 2

    torch.testing.assert_close(found, whole)


def test_tokens_are_classes_at_every_place() -> None:
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2, 3, -100], [3, 2, -100, -100, -100]])
    found = _value(Task(("tokens",)).terms(logits, labels))

    expected = F.cross_entropy(logits.reshape(10, 4), labels.reshape(10), ignore_index=-100)
    torch.testing.assert_close(found, expected)
    right, count = Task(("tokens",)).score(logits, labels)
    assert count == 6
    assert int(right) == int((logits.argmax(dim=2) == labels)[labels >= 0].sum())
    with pytest.raises(BadInputError, match=r'"tokens" takes outputs of shape \[N, length'):
        Task(("tokens",)).terms(logits[0], labels)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("mse", 2.5), ("l1", 1.5), ("huber", 1.0), ("binary", 0.5 * (0.313262 + 2.126928))],
)
def test_losses_of_numbers(loss: str, expected: float) -> None:
    outputs = torch.tensor([[1.0], [2.0]])
    labels = torch.tensor([0.0, 0.0]) if loss != "binary" else torch.tensor([1.0, 0.0])
    task = Task((loss,))

    assert _value(task.terms(outputs, labels)).item() == pytest.approx(expected, rel=1e-5)
    score, count = task.score(outputs, labels)
    assert float(score) / count == pytest.approx(-expected, rel=1e-5)
    with pytest.raises(BadInputError, match="takes outputs and labels of one shape"):
        task.terms(outputs, torch.zeros(2, 2))


def test_several_heads_have_weights_and_columns_of_their_own() -> None:
    options = TrainOptions(loss=("cross-entropy", "mse"), loss_weights=(1.0, 0.5))
    labels = torch.cat([LABELS[:, None].float(), torch.full((3, 2), 2.0)], dim=1)
    outputs = {"digit": LOGITS, "place": torch.zeros(3, 2)}
    task = task_for(options, labels)
    terms = task.terms(outputs, labels)

    assert list(terms) == ["task digit", "task place"]
    torch.testing.assert_close(terms["task digit"].value, F.cross_entropy(LOGITS, LABELS))
    assert terms["task place"].value.item() == 4
    expected = F.cross_entropy(LOGITS, LABELS) + 0.5 * 4
    torch.testing.assert_close(_value(terms), expected)
    score, count = task.score(outputs, labels)
    assert float(score) / count == pytest.approx(-expected.item())
    with pytest.raises(BadInputError, match="output place takes 2 columns of labels from column 1"):
        task.terms(outputs, labels[:, :2])
    with pytest.raises(BadInputError, match=r"gives 3 outputs \(0, 1, 2\) and loss names 2"):
        task.terms((LOGITS, LOGITS, LOGITS), labels)


def test_heads_share_plain_labels_and_may_be_fewer_when_judged() -> None:
    task = Task(("cross-entropy", "cross-entropy"), (1.0, 0.3))
    terms = task.terms((LOGITS, -LOGITS), LABELS)
    expected = F.cross_entropy(LOGITS, LABELS) + 0.3 * F.cross_entropy(-LOGITS, LABELS)

    torch.testing.assert_close(_value(terms), expected)
    assert list(task.terms((LOGITS,), LABELS)) == ["task 0"]
    # One loss alone is that of the first output.
    assert list(Task().terms((LOGITS, -LOGITS), LABELS)) == ["task"]


def test_an_own_loss_gives_a_number_or_several_by_name() -> None:
    def own(outputs: Any, labels: Tensor) -> dict[str, Tensor]:
        return {"near": (outputs - labels).abs().mean(), "small": outputs.square().mean()}

    task = Task(own=own)
    terms = task.terms(torch.full((2,), 3.0), torch.ones(2))
    assert {name: term.value.item() for name, term in terms.items()} == {
        "task near": 2.0,
        "task small": 9.0,
    }
    assert task.metric == "loss"
    alone = Task(own=lambda outputs, labels: cast("Tensor", outputs) - labels.sum())
    assert list(alone.terms(torch.ones(1), torch.ones(2))) == ["task"]
    with pytest.raises(BadInputError, match=r"the loss gave \[2\] for the batch: it must be one"):
        Task(own=lambda outputs, _: cast("Tensor", outputs)).terms(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (
            LOGITS,
            torch.tensor([0, 3, 1]),
            "labels go up to 3 and the network has 3 classes, 0 to 2",
        ),
        (torch.zeros(2), torch.tensor([0, 1]), r"output of shape \[N, classes\], not \[2\]"),
        (LOGITS, torch.zeros(3), r"whole-number labels of shape \[3\], not float32 \[3\]"),
        (LOGITS, torch.zeros(3, 2).long(), r"labels of shape \[3\], not int64 \[3, 2\]"),
        ("text", LABELS, "a network that gives tensors, not <class 'str'>"),
        ({}, LABELS, "a network that gives tensors, not <class 'dict'>"),
    ],
)
def test_what_does_not_fit_is_named(outputs: object, labels: Tensor, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Task().terms(outputs, labels)


def test_mixed_samples_are_learnt_by_their_shares() -> None:
    other = torch.tensor([1, 1, 1])
    step = Step(nn.Identity(), (LOGITS,), (Target(LABELS, 0.75), Target(other, 0.25)), Task())
    found = total(labels_alone(step))

    expected = 0.75 * F.cross_entropy(LOGITS, LABELS) + 0.25 * F.cross_entropy(LOGITS, other)
    torch.testing.assert_close(found, expected)
