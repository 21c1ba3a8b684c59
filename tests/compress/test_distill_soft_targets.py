"""Losses between outputs: each against its paper's formula, written naively in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from deploykit.compress.distill.decoupled import decoupled_losses
from deploykit.compress.distill.relations import relation_losses
from deploykit.compress.distill.soft_targets import mixed_logits, soft_target_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ROWS, CLASSES = 6, 4
LABELS = torch.tensor([0, 2, 1, 2, 3, 0])
TEMPERATURES = pytest.mark.parametrize("temperature", [1.0, 4.0])


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(seed))


def softened(values: Tensor, temperature: float) -> NDArray[np.float64]:
    found = np.exp(values.double().numpy() / temperature)
    shares: NDArray[np.float64] = found / found.sum(axis=1, keepdims=True)
    return shares


@TEMPERATURES
def test_soft_targets(temperature: float) -> None:
    q, p = (softened(logits(seed), temperature) for seed in (1, 2))
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()

    found = soft_target_loss(logits(1), logits(2), temperature)

    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_does_not_shrink_with_the_temperature() -> None:
    """At high temperatures it is that of half the squared distance of centred logits, by class."""
    student, teacher = logits(1).requires_grad_(), logits(2)

    (gradient,) = torch.autograd.grad(soft_target_loss(student, teacher, 3000.0), student)

    apart = student.detach() - teacher
    expected = (apart - apart.mean(dim=1, keepdim=True)) / CLASSES / ROWS
    torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-3)


def _decoupled_by_hand(
    q: NDArray[np.float64], p: NDArray[np.float64]
) -> tuple[list[float], list[float]]:
    """Section 3.1 of the paper, sample by sample; q is the student's, p the teacher's."""
    target, others = [], []
    for student, teacher, label in zip(q, p, LABELS.tolist(), strict=True):
        b_student = np.array([student[label], 1 - student[label]])
        b_teacher = np.array([teacher[label], 1 - teacher[label]])
        target.append(float((b_teacher * np.log(b_teacher / b_student)).sum()))
        rest = [c for c in range(CLASSES) if c != label]
        hat_student = student[rest] / student[rest].sum()
        hat_teacher = teacher[rest] / teacher[rest].sum()
        others.append(float((hat_teacher * np.log(hat_teacher / hat_student)).sum()))
    return target, others


@TEMPERATURES
def test_decoupled(temperature: float) -> None:
    q, p = (softened(logits(seed), temperature) for seed in (1, 2))
    target, others = _decoupled_by_hand(q, p)

    found = decoupled_losses(logits(1), logits(2), LABELS, temperature)

    np.testing.assert_allclose(found[0], temperature**2 * np.array(target), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], temperature**2 * np.array(others), rtol=1e-4, atol=1e-6)


@TEMPERATURES
def test_soft_targets_are_both_parts_coupled(temperature: float) -> None:
    """Eq. 6: KD = TCKD + (1 - p_t) NCKD, where p_t is the teacher's."""
    p = torch.softmax(logits(2) / temperature, dim=1)
    rest = 1 - p.gather(1, LABELS[:, None])[:, 0]

    target, others = decoupled_losses(logits(1), logits(2), LABELS, temperature)

    whole = soft_target_loss(logits(1), logits(2), temperature)
    torch.testing.assert_close((target + rest * others).mean(), whole)


def test_a_teacher_that_is_all_too_sure_gives_numbers() -> None:
    """Probabilities of 1 and 0 in float32, whose naive logarithms are infinite."""
    teacher = torch.zeros(ROWS, CLASSES).scatter_(1, LABELS[:, None], 500.0)
    student = (-teacher).requires_grad_()

    target, others = decoupled_losses(student, teacher, LABELS, 1.0)
    (gradient,) = torch.autograd.grad((target + others).sum(), student)

    assert target.tolist() == pytest.approx([500 + np.log(3)] * ROWS)
    assert others.abs().max() < 1e-6
    assert bool(gradient.isfinite().all())


@TEMPERATURES
def test_relations(temperature: float) -> None:
    q, p = (softened(logits(seed), temperature) for seed in (1, 2))
    between = np.mean([1 - np.corrcoef(q[n], p[n])[0, 1] for n in range(ROWS)])
    within = np.mean([1 - np.corrcoef(q[:, c], p[:, c])[0, 1] for c in range(CLASSES)])

    found = relation_losses(logits(1), logits(2), temperature)

    np.testing.assert_allclose(found[0], temperature**2 * between, rtol=1e-4)
    np.testing.assert_allclose(found[1], temperature**2 * within, rtol=1e-4)


@TEMPERATURES
def test_several_teachers_are_the_mean_of_their_probabilities(temperature: float) -> None:
    shares = (0.7, 0.3)
    mean = sum(s * softened(logits(n), temperature) for s, n in zip(shares, (1, 2), strict=True))

    found = mixed_logits([logits(1), logits(2)], shares, temperature)

    np.testing.assert_allclose(softened(found, temperature), np.asarray(mean), rtol=1e-5)
    assert mixed_logits([logits(1)], (1.0,), temperature).equal(logits(1))


LOSSES: Any = {
    "soft targets": lambda a, b: soft_target_loss(a, b, 2.0),
    "decoupled": lambda a, b: sum(decoupled_losses(a, b, LABELS, 2.0)).sum(),  # type: ignore[union-attr]  # tensors
    "relations": lambda a, b: sum(relation_losses(a, b, 2.0)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_left_to_learn_where_both_agree(name: str) -> None:
    student = logits(1).requires_grad_()

    found = LOSSES[name](student, logits(1))
    (gradient,) = torch.autograd.grad(found, student)

    assert float(found.detach()) == pytest.approx(0, abs=1e-5)
    assert float(gradient.abs().max()) < 1e-5
