"""Soft targets: the formula by hand, the teacher left alone, and what it is for: it teaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor, nn

from deploykit.compress.distill.options import SoftTargets
from deploykit.compress.distill.soft_targets import soft_target_loss, taught
from deploykit.core.errors import BadInputError
from deploykit.load.arrays import ArrayData
from deploykit.nets.seeding import initial_weights
from deploykit.train.loop import train
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from pathlib import Path

LABELS = torch.tensor([0, 2, 1, 2])


def logits(seed: int) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_formula(temperature: float) -> None:
    student, teacher = (logits(seed).double().numpy() for seed in (1, 2))
    p, q = (np.exp(one / temperature) for one in (teacher, student))
    p, q = (one / one.sum(axis=1, keepdims=True) for one in (p, q))
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()

    found = soft_target_loss(logits(1), logits(2), temperature)

    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_does_not_shrink_with_the_temperature() -> None:
    """At high temperatures it is that of half the squared distance of centred logits, by class."""
    student, teacher = logits(1).requires_grad_(), logits(2)

    (gradient,) = torch.autograd.grad(soft_target_loss(student, teacher, 1000.0), student)

    apart = student.detach() - teacher
    expected = (apart - apart.mean(dim=1, keepdim=True)) / 3 / 4  # classes, samples
    torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-4)


class Fixed(nn.Module):
    """Logits that do not depend on the input; dropout, so that its mode shows."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.drop(self.values + 0 * x.sum())
        return found


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_labels_and_teacher_are_mixed(weight: float) -> None:
    net, teacher = Fixed(logits(1)).eval(), Fixed(logits(2)).train()
    loss = taught(teacher, SoftTargets(weight, 2.0), label_smoothing=0.1)

    found = loss(net, (torch.zeros(4, 1),), LABELS)

    hard = F.cross_entropy(logits(1), LABELS, label_smoothing=0.1)
    soft = soft_target_loss(logits(1), logits(2), 2.0)
    torch.testing.assert_close(found, (1 - weight) * hard + weight * soft)


def test_the_teacher_that_was_given_is_left_as_it_was() -> None:
    net, teacher = Fixed(logits(1)), Fixed(logits(2)).train()

    loss = taught(teacher, SoftTargets())(net, (torch.zeros(4, 1),), LABELS)
    torch.autograd.backward(loss)

    assert teacher.training
    assert teacher.values.requires_grad
    assert teacher.values.grad is None
    assert net.values.grad is not None


def test_other_classes_are_refused() -> None:
    loss = taught(Fixed(torch.zeros(4, 5)), SoftTargets())

    with pytest.raises(BadInputError) as caught:
        loss(Fixed(logits(1)), (torch.zeros(4, 1),), LABELS)
    assert str(caught.value) == (
        "the teacher gives [5] for a sample and the network [3]; a teacher has to know the same "
        "classes"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": 1.5}, "the teacher's weight must be from 0 to 1, not 1.5"),
        ({"weight": float("nan")}, "the teacher's weight must be from 0 to 1, not nan"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0"),
        ({"temperature": float("inf")}, "temperature must be above 0, not inf"),
    ],
)
def test_options_that_are_no_mixture(options: dict[str, float], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        SoftTargets(**options)
    assert str(caught.value) == words


def test_a_student_learns_from_the_teacher_alone(tmp_path: Path) -> None:
    """Labels are noise here, and count nothing; a checkpoint of another loss is not taken up."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((256, 4), np.float32)
    with initial_weights(0):
        teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    classes = teacher(torch.from_numpy(x)).argmax(dim=1).numpy()
    data = ArrayData("noise", {"x": x}, draw.integers(0, 3, 256))
    val = ArrayData("teacher's", {"x": x}, classes)
    options = TrainOptions(epochs=20, batch_size=32, learning_rate=0.1, weight_decay=0.0)
    loss = taught(teacher, SoftTargets(1.0, 2.0))

    plain = train(student, data, val, options, folder=tmp_path)
    learnt = train(student, data, val, options, folder=tmp_path, loss=loss, loss_key="soft")

    assert learnt.val_accuracy > 0.95
    assert plain.val_accuracy < 0.8
