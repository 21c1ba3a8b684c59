"""Hints and attention between layers of any two networks; hooks that do not stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor, nn

from deploykit.compress.distill.features import attention_loss, pooled
from deploykit.compress.distill.graph_layers import with_layers
from deploykit.compress.distill.layers import watching
from deploykit.compress.distill.loss import taught
from deploykit.compress.distill.options import DistillOptions
from deploykit.compress.prune.cutting.cut import cut
from deploykit.compress.prune.graph.program import program_of
from deploykit.compress.prune.plan import Plan
from deploykit.core.errors import BadInputError
from deploykit.core.types import Model
from deploykit.load.arrays import ArrayData
from deploykit.load.inputs import parse_inputs
from deploykit.nets.seeding import initial_weights
from deploykit.train.loop import train
from deploykit.train.objective import Step, Target, total
from deploykit.train.options import TrainOptions
from deploykit.train.tasks import Task

if TYPE_CHECKING:
    from pathlib import Path

LABELS = torch.tensor([0, 2])
IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, one ReLU that is called twice and works in place, pooling, classes."""

    def __init__(self, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.deep = nn.Sequential(nn.Conv2d(width, width, 1))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = self.relu(self.deep(x))
        found: Tensor = self.head(x.mean(dim=(2, 3)))
        return found


def net(width: int, seed: int, **options: Any) -> Net:
    with initial_weights(seed):
        return Net(width, **options)


def terms_of(student: nn.Module, teacher: nn.Module, **options: Any) -> Any:
    loss = taught(teacher, DistillOptions(**options), student=student, inputs=(IMAGES,))
    terms = loss(Step(student.train(), (IMAGES,), (Target(LABELS),), Task()))
    return loss, terms


def test_a_hint_is_the_distance_of_two_layers_before_anything_changes_them() -> None:
    """The ReLU behind both norms works in place; what counts is what the norms gave."""
    student, teacher = net(4, 1), net(4, 2)

    loss, terms = terms_of(student, teacher, hints=("norm",), hint_weight=0.5)

    ours = student.norm(student.conv(IMAGES))
    theirs = teacher.eval().norm(teacher.conv(IMAGES))
    assert list(terms) == ["task", "teacher", "hint norm"]
    torch.testing.assert_close(terms["hint norm"].value, F.mse_loss(ours, theirs))
    assert terms["hint norm"].weight == 0.5
    assert not list(loss.parameters())


def test_other_widths_and_sizes_meet_by_projection_and_pooling() -> None:
    student, teacher = net(2, 1, stride=2), net(4, 2)

    loss, terms = terms_of(student, teacher, hints=("deep.0=deep",))

    (weight, bias) = loss.parameters()
    assert weight.shape == (4, 2)
    small = student.deep(F.relu(student.norm(student.conv(IMAGES))))
    large = teacher.deep(F.relu(teacher.eval().norm(teacher.conv(IMAGES))))
    projected = F.conv2d(small, weight[:, :, None, None], bias)
    expected = F.mse_loss(projected, F.adaptive_avg_pool2d(large, 4))
    torch.testing.assert_close(terms["hint deep.0=deep"].value, expected)
    torch.autograd.backward(total(terms))
    assert weight.grad is not None
    assert student.conv.weight.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_layer_that_is_called_twice_is_compared_twice() -> None:
    student, teacher = net(4, 1), net(4, 2)

    _, terms = terms_of(student, teacher, hints=("relu",))

    def calls(one: Net) -> list[Tensor]:
        first = F.relu(one.norm(one.conv(IMAGES)))
        return [first, F.relu(one.deep(first))]

    both = zip(calls(student), calls(teacher.eval()), strict=True)
    expected = torch.stack([F.mse_loss(*pair) for pair in both]).mean()
    torch.testing.assert_close(terms["hint relu"].value, expected)


def test_attention() -> None:
    """Eq. 1 and 2, written in NumPy; channels do not have to be as many."""
    student, teacher = net(2, 1), net(4, 2)

    _, terms = terms_of(student, teacher, attention=("conv",))

    maps = []
    for one in (student, teacher):
        squares = (one.conv(IMAGES).detach().numpy().astype(np.float64) ** 2).sum(axis=1)
        rows = squares.reshape(2, -1)
        maps.append(rows / np.sqrt((rows**2).sum(axis=1, keepdims=True)))
    expected = ((maps[0] - maps[1]) ** 2).mean()
    assert float(terms["attention conv"].value.detach()) == pytest.approx(expected, rel=1e-5)
    assert terms["attention conv"].weight == 1000.0


def test_attention_of_other_sizes_is_pooled() -> None:
    ours, theirs = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 8, 8)

    found = attention_loss(ours, theirs)

    small = F.normalize(ours.pow(2).sum(1).flatten(1), dim=1)
    large = F.adaptive_avg_pool2d(theirs.pow(2).sum(1, keepdim=True), 4).flatten(1)
    expected = (small - F.normalize(large, dim=1)).pow(2).mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("before", "after"), [((8, 8), (4, 4)), ((7, 9), (3, 5)), ((6, 5), (6, 1))]
)
def test_pooling_is_torchs(before: tuple[int, int], after: tuple[int, int]) -> None:
    feature = torch.rand(2, 3, *before)

    torch.testing.assert_close(pooled(feature, after), F.adaptive_avg_pool2d(feature, after))


def test_tokens_have_their_channels_last() -> None:
    """[N, L, C] of a linear layer is projected from its last dimension."""
    student = nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(20, 3))
    teacher = nn.Sequential(nn.Linear(3, 6), nn.Flatten(), nn.Linear(30, 3))
    inputs = (torch.rand(2, 5, 3),)
    options = DistillOptions(hints=("0",))

    loss = taught(teacher, options, student=student, inputs=inputs)
    terms = loss(Step(student, inputs, (Target(LABELS),), Task()))

    weight, bias = loss.parameters()
    assert weight.shape == (6, 4)
    expected = F.mse_loss(student[0](*inputs) @ weight.T + bias, teacher[0](*inputs))
    torch.testing.assert_close(terms["hint 0"].value, expected)


def test_hooks_are_gone_even_after_an_error() -> None:
    one = net(4, 1)

    def run() -> None:
        with watching(one, ["conv"], "student"):
            assert one.conv._forward_hooks
            raise BadInputError("stop")

    with pytest.raises(BadInputError, match="stop"):
        run()
    assert not one.conv._forward_hooks


def test_the_projection_is_trained_beside_the_student(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((32, 1, 8, 8), np.float32)
    data = ArrayData("noise", {"x": x}, draw.integers(0, 3, 32))
    student, teacher = net(2, 1), net(4, 2)
    loss = taught(teacher, DistillOptions(0.0, hints=("conv",)), student=student, inputs=(IMAGES,))
    before = [parameter.clone() for parameter in loss.parameters()]
    options = TrainOptions(epochs=6, batch_size=8, learning_rate=0.1)

    done = train(student, data, data, options, folder=tmp_path, loss=loss, loss_key="hint")

    assert done.epochs[-1].parts["hint conv"].value < done.epochs[0].parts["hint conv"].value / 2
    assert any(not one.equal(now) for one, now in zip(before, loss.parameters(), strict=True))
    assert set(done.module.state_dict()) == set(student.state_dict())


def _captured(one: Net) -> nn.Module:
    """As pruning gives it: operators, no modules."""
    return cut(program_of(Model(one.eval(), parse_inputs(["x=N[1..8]x1x8x8"]))), Plan(()))


def test_layers_of_a_captured_graph() -> None:
    """Pruned networks have no modules; what `torch.export` noted of each operator will do."""
    whole = net(4, 1)
    graph = _captured(whole)

    opened = with_layers(graph, ["norm", "deep.0"])
    with watching(opened, ["norm", "deep.0"], "student") as seen:
        found = opened(IMAGES)

    torch.testing.assert_close(found, graph(IMAGES))
    torch.testing.assert_close(seen["norm"].calls[0], whole.norm(whole.conv(IMAGES)))
    assert seen["deep.0"].calls[0].shape == (2, 4, 8, 8)
    assert set(opened.state_dict()) == set(graph.state_dict())
    assert with_layers(whole, ["norm"]) is whole


def test_a_captured_graph_learns_by_hints() -> None:
    teacher, graph = net(4, 2), _captured(net(4, 1))
    student = with_layers(graph, ["deep"])

    _, terms = terms_of(student, teacher, hints=("deep",))

    torch.autograd.backward(terms["hint deep"].value)
    assert any(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hints": ("cnov=conv",)}, "the student has no layer 'cnov'; did you mean 'conv'?"),
        ({"hints": ("conv=deeep",)}, "the teacher has no layer 'deeep'; did you mean 'deep'?"),
        (
            {"hints": ("conv=head",)},
            (
                "conv=head: the student's layer gives [N, 4, 8, 8] and the teacher's [N, 3]; take "
                "layers with equally many dimensions"
            ),
        ),
        (
            {"hints": ("conv=relu",)},
            (
                "conv=relu: the student calls its layer 1 times and the teacher 2; take layers "
                "that are called equally often"
            ),
        ),
        (
            {"attention": ("head",)},
            (
                "attention head: these layers give one number a channel, and attention compares "
                "places; take a convolution, or hints"
            ),
        ),
        (
            {"hints": ("unused",)},
            (
                "the student's layer 'unused' is never called as a module, so that it gives "
                "nothing; take one inside or around it"
            ),
        ),
    ],
)
def test_layers_that_cannot_be_compared_are_one_line(options: Any, words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        terms_of(net(4, 1), net(4, 2), **options)
    assert str(caught.value) == words
