"""The loss of a student: its terms and their weights, and what it is for: a student learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor, nn

from deploykit.compress.distill.at_size import AtSize
from deploykit.compress.distill.decoupled import decoupled_losses
from deploykit.compress.distill.loss import taught
from deploykit.compress.distill.options import DistillOptions
from deploykit.compress.distill.soft_targets import mixed_logits, soft_target_loss
from deploykit.core.errors import BadInputError
from deploykit.load.arrays import ArrayData
from deploykit.load.joined import Joined, Unlabelled
from deploykit.nets.seeding import initial_weights
from deploykit.train.loop import train
from deploykit.train.objective import Step, Target, total
from deploykit.train.options import TrainOptions
from deploykit.train.tasks import Task

if TYPE_CHECKING:
    from pathlib import Path

LABELS = torch.tensor([0, 2, 1, 3])
INPUTS = (torch.zeros(4, 1),)


def values(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (4, 4), generator=torch.Generator().manual_seed(seed))


class Fixed(nn.Module):
    """Outputs that do not depend on the input."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.ParameterList(outputs)

    def forward(self, x: Tensor) -> object:
        found = tuple(one + 0 * x.sum() for one in self.outputs)
        return found[0] if len(found) == 1 else found


def step(net: nn.Module, labels: Tensor = LABELS, **asked: Any) -> Step:
    return Step(net.train(), INPUTS, (Target(labels),), asked.pop("task", Task()), **asked)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_labels_and_teacher_are_mixed(weight: float) -> None:
    loss = taught(Fixed(values(2)), DistillOptions(weight, 2.0))

    terms = loss(step(Fixed(values(1)), task=Task(label_smoothing=0.1)))

    hard = F.cross_entropy(values(1), LABELS, label_smoothing=0.1)
    soft = soft_target_loss(values(1), values(2), 2.0)
    assert list(terms) == ["task", "teacher"]
    torch.testing.assert_close(terms["teacher"].value, soft)
    torch.testing.assert_close(total(terms), (1 - weight) * hard + weight * soft)


def test_weight_and_temperature_change_on_the_way() -> None:
    options = DistillOptions(0.8, 4.0, weight_end=0.0, temperature_end=2.0)

    terms = taught(Fixed(values(2)), options)(step(Fixed(values(1)), progress=0.25))

    assert terms["task"].weight == pytest.approx(0.4)
    assert terms["teacher"].weight == pytest.approx(0.6)
    torch.testing.assert_close(terms["teacher"].value, soft_target_loss(values(1), values(2), 3.5))


def test_several_teachers() -> None:
    options = DistillOptions(teacher_shares=(0.7, 0.3))

    terms = taught([Fixed(values(2)), Fixed(values(3))], options)(step(Fixed(values(1))))

    mean = mixed_logits([values(2), values(3)], (0.7, 0.3), 4.0)
    torch.testing.assert_close(terms["teacher"].value, soft_target_loss(values(1), mean, 4.0))


def test_the_teacher_that_was_given_is_left_as_it_was() -> None:
    net, teacher = Fixed(values(1)), Fixed(values(2)).train()
    loss = taught(teacher, DistillOptions())

    torch.autograd.backward(total(loss(step(net))))

    assert teacher.training
    assert teacher.outputs[0].requires_grad
    assert teacher.outputs[0].grad is None
    assert net.outputs[0].grad is not None
    assert not loss.state_dict()
    assert not list(loss.parameters())


def test_decoupled_takes_labels_where_there_are_any() -> None:
    """Rows without a label learn plain soft targets."""
    labels = torch.tensor([0, -100, 1, -100])
    options = DistillOptions(1.0, method="decoupled", alpha=2.0, beta=3.0)

    terms = taught(Fixed(values(2)), options)(step(Fixed(values(1)), labels))

    known = [0, 2]
    target, others = decoupled_losses(values(1)[known], values(2)[known], labels[known], 4.0)
    plain = soft_target_loss(values(1)[[1, 3]], values(2)[[1, 3]], 4.0)
    assert list(terms)[1:] == ["teacher target", "teacher others", "teacher unlabelled"]
    found = [(float(term.value.detach()), term.weight) for term in list(terms.values())[1:]]
    expected = [
        (float(target.sum() / 4), 2.0),
        (float(others.sum() / 4), 3.0),
        (float(plain / 2), 1.0),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_mixed_samples_have_two_targets() -> None:
    """Decoupled distillation needs to know the target: each counts for its share."""
    other = LABELS.flip(0)
    loss = taught(Fixed(values(2)), DistillOptions(1.0, method="decoupled"))

    def others(*targets: Target) -> Tensor:
        mixed = Step(Fixed(values(1)), INPUTS, targets, Task())
        found: Tensor = loss(mixed)["teacher others"].value
        return found

    found = others(Target(LABELS, 0.7), Target(other, 0.3))

    expected = 0.7 * others(Target(LABELS)) + 0.3 * others(Target(other))
    torch.testing.assert_close(found, expected)


def test_a_sample_without_any_label_is_taught_and_padding_is_not() -> None:
    """The second sequence is padded at its end; the first has no labels at all."""
    labels = torch.tensor([[-100, -100, -100], [1, 2, -100]])
    ours, theirs = values(1, 2, 3, 4), values(2, 2, 3, 4)
    net = Fixed(ours)

    terms = taught(Fixed(theirs), DistillOptions())(step(net, labels, task=Task(("tokens",))))

    rows = [0, 1, 2, 3, 4]
    expected = soft_target_loss(ours.flatten(0, 1)[rows], theirs.flatten(0, 1)[rows], 4.0)
    torch.testing.assert_close(terms["teacher"].value, expected)


def test_every_head_has_its_own() -> None:
    """Classes by soft targets, numbers by mse, each with the weight of its own loss."""
    labels = torch.cat([LABELS[:, None].float(), values(5, 4, 2)], dim=1)
    net, teacher = Fixed(values(1), values(3, 4, 2)), Fixed(values(2), values(4, 4, 2))
    task = Task(("cross-entropy", "mse"), (1.0, 0.5))

    terms = taught(teacher, DistillOptions(0.5))(step(net, labels, task=task))

    assert list(terms) == ["task output_0", "task output_1", "teacher 0", "teacher 1"] or list(
        terms
    ) == ["task 0", "task 1", "teacher 0", "teacher 1"]
    torch.testing.assert_close(
        terms["teacher 0"].value, soft_target_loss(values(1), values(2), 4.0)
    )
    torch.testing.assert_close(
        terms["teacher 1"].value, F.mse_loss(values(3, 4, 2), values(4, 4, 2))
    )
    assert terms["teacher 1"].weight == 0.25


def test_a_yes_or_no_is_two_classes() -> None:
    labels = (values(5) > 0).float()

    terms = taught(Fixed(values(2)), DistillOptions(temperature=3.0))(
        step(Fixed(values(1)), labels, task=Task(("binary",)))
    )

    p, q = torch.sigmoid(values(2).double() / 3), torch.sigmoid(values(1).double() / 3)
    expected = 9 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(terms["teacher"].value.double(), expected, rtol=1e-5, atol=1e-6)


def test_numbers_are_compared_as_they_are() -> None:
    terms = taught(Fixed(values(2)), DistillOptions())(
        step(Fixed(values(1)), values(3), task=Task(("huber",)))
    )

    torch.testing.assert_close(terms["teacher"].value, F.mse_loss(values(1), values(2)))


class Layer(nn.Module):
    """Gives what type its product is calculated in, as its output's type."""

    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Linear(1, 4)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.product(x)
        self.seen.append(found.dtype)
        return found


@pytest.mark.parametrize(
    ("precision", "outside", "expected"),
    [
        ("auto", False, torch.float32),
        ("auto", True, torch.bfloat16),
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_the_precision_of_the_teacher(precision: str, outside: bool, expected: torch.dtype) -> None:
    loss = taught(Layer(), DistillOptions(teacher_precision=precision))
    (teacher,) = loss.teachers
    assert isinstance(teacher, Layer)

    with torch.autocast("cpu", torch.bfloat16, enabled=outside):
        terms = loss(step(Layer()))

    assert teacher.seen == [expected]
    assert terms["teacher"].value.dtype == torch.float32


class Eager(nn.Module):
    """Thinks that it is being trained, whatever it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def train(self, mode: bool = True) -> Eager:
        del mode
        return super().train(mode=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = values(1) + self.drop(x)
        return found


class Still(Eager):
    def train(self, mode: bool = True) -> Still:
        super().train(mode)
        return nn.Module.train(self, mode=False)


def _exported(net: nn.Module) -> nn.Module:
    found: nn.Module = torch.export.export(net, (torch.zeros(4, 4),)).module()
    return found


def _run(student: nn.Module, teacher: Any, labels: Tensor = LABELS, **options: Any) -> None:
    task = options.pop("task", Task())
    loss = taught(teacher, DistillOptions(**options))
    loss(Step(student, INPUTS, (Target(labels),), task))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            lambda: _run(Fixed(values(1)), Fixed(values(1, 4, 5))),
            (
                "the teacher gives [5] for a sample and the student [4]; a teacher has to know the "
                "same classes"
            ),
        ),
        (
            lambda: _run(Fixed(values(1)), Eager()),
            (
                "the teacher stays in training mode in the network itself, drop, where its answers "
                "change from call to call; let its eval() reach them, or export it after eval()"
            ),
        ),
        (
            lambda: _run(Still().train(), Fixed(values(1))),
            (
                "the student is in evaluation mode, where norms and dropout do not train; let its "
                "train() do what torch's does"
            ),
        ),
        (
            lambda: _run(_exported(nn.BatchNorm1d(4).eval()), Fixed(values(1))),
            (
                "the student is an exported program, which stays in the mode that it was exported "
                "in: name the network that it was made of"
            ),
        ),
        (
            lambda: _run(Fixed(values(1)), _exported(nn.Sequential(nn.Linear(4, 4), nn.Dropout()))),
            (
                "the teacher stays in training mode in dropout, where its answers change from call "
                "to call; let its eval() reach them, or export it after eval()"
            ),
        ),
        (
            lambda: _run(Fixed(values(1)), Fixed(values(1)), teacher_shares=(0.5, 0.5)),
            "teacher_shares has 2 numbers for 1 teachers: one for each",
        ),
        (
            lambda: _run(
                Fixed(values(1)), Fixed(values(1)), values(2), task=Task(("mse",)), method="dist"
            ),
            'method dist compares classes, and this output is of numbers (loss "mse"); take mse',
        ),
        (
            lambda: _run(
                Fixed(values(1, 4, 2)), Fixed(values(2, 4, 2)), LABELS // 2, method="decoupled"
            ),
            (
                "method decoupled compares classes with each other, which takes 3 or more, not 2; "
                "take soft-targets"
            ),
        ),
        (
            lambda: _run(
                Fixed(values(1), values(2)),
                Fixed(values(3), values(4)),
                values(5, 4, 5),
                task=Task(("cross-entropy", "mse"), (1.0, 1.0)),
                method="decoupled",
            ),
            (
                "method decoupled needs a class number for each row of an output, not labels of "
                "shape [4, 5]; take soft-targets"
            ),
        ),
        (
            lambda: _run(Fixed(values(1)), Fixed(values(1)), hints=("a",)),
            "hints and attention need the student and inputs to try both with",
        ),
    ],
)
def test_what_cannot_be_taught_is_one_line(run: Any, words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        run()
    assert str(caught.value) == words


def test_an_exported_program_in_evaluation_mode_teaches() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    loss = taught(_exported(net), DistillOptions())

    terms = loss(Step(nn.Linear(4, 4), (values(1),), (Target(LABELS),), Task()))

    assert bool(terms["teacher"].value.isfinite())


def test_a_network_among_larger_images() -> None:
    net = AtSize(nn.Conv2d(1, 2, 3, padding=1), (4, 4))

    found = net(values(1, 2, 1, 8, 8))
    same = net(values(1, 2, 1, 4, 4))

    assert isinstance(found, Tensor)
    assert found.shape == (2, 2, 4, 4)
    torch.testing.assert_close(same, net.inner(values(1, 2, 1, 4, 4)))


def _noise() -> tuple[nn.Module, nn.Module, ArrayData, ArrayData]:
    """Teacher and student; labels that are noise; the teacher's own answers to judge by."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((256, 4), np.float32)
    with initial_weights(0):
        teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    classes = teacher(torch.from_numpy(x)).argmax(dim=1).numpy()
    noise = ArrayData("noise", {"x": x}, draw.integers(0, 3, 256))
    return teacher, student, noise, ArrayData("teacher's", {"x": x}, classes)


LEARNING = TrainOptions(epochs=20, batch_size=32, learning_rate=0.1, weight_decay=0.0)


@pytest.mark.parametrize("method", ["soft-targets", "decoupled", "dist", "mse"])
def test_a_student_learns_from_the_teacher_alone(method: str, tmp_path: Path) -> None:
    """Labels are noise here, and count nothing."""
    teacher, student, data, val = _noise()
    beta: dict[str, Any] = {"beta": 1.0} if method == "decoupled" else {}
    loss = taught(teacher, DistillOptions(1.0, method=method, **beta))

    learnt = train(student, data, val, LEARNING, folder=tmp_path, loss=loss, loss_key="soft")

    assert learnt.val_score > 0.9


def test_a_checkpoint_of_another_loss_is_not_gone_on_with(tmp_path: Path) -> None:
    teacher, student, data, val = _noise()
    loss = taught(teacher, DistillOptions(1.0))

    plain = train(student, data, val, LEARNING, folder=tmp_path)
    learnt = train(student, data, val, LEARNING, folder=tmp_path, loss=loss, loss_key="soft")

    assert learnt.val_score > plain.val_score + 0.1


def test_a_student_learns_from_samples_without_labels(tmp_path: Path) -> None:
    """Four labelled samples say little; the teacher knows the others."""
    teacher, student, _, val = _noise()
    few = ArrayData("few", {"x": val.inputs["x"][:4]}, val.batch(range(4)).labels)
    loss = taught(teacher, DistillOptions(0.9))

    both = Joined(few, Unlabelled(val))
    learnt = train(student, both, val, LEARNING, folder=tmp_path, loss=loss, loss_key="soft")

    assert learnt.val_score > 0.9
    assert all("teacher" in epoch.parts for epoch in learnt.epochs)
