"""The reference networks: shapes, sizes and seeds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.nets.classic import classic, student, teacher
from deploykit.nets.resnet import resnet


def _parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_resnet_has_the_parameters_of_its_definition() -> None:
    def conv(before: int, after: int, size: int = 3) -> int:
        return before * after * size * size + 2 * after  # with its batch normalisation

    stages = sum(conv(width, width) * 3 + conv(before, width) for before, width in
                 ((32, 32), (32, 64), (64, 128)))  # fmt: skip
    shortcuts = conv(32, 64, 1) + conv(64, 128, 1)
    assert _parameters(resnet()) == conv(1, 32) + stages + shortcuts + 128 * 10 + 10 == 696_042


@pytest.mark.parametrize(("size", "channels"), [((28, 28), 1), ((32, 20), 3), ((4, 4), 1)])
def test_resnet_takes_any_size(size: tuple[int, int], channels: int) -> None:
    net = resnet(channels=(4, 8, 8), in_channels=channels, classes=7).eval()

    assert net(torch.zeros(2, channels, *size)).shape == (2, 7)


def test_each_stage_but_the_first_halves_the_image() -> None:
    net = resnet(channels=(4, 6, 8), blocks=3)
    x = torch.zeros(1, 4, 9, 8)
    shapes = [tuple((x := stage(x)).shape[1:]) for stage in net.stages]

    assert shapes == [(4, 9, 8), (6, 5, 4), (8, 3, 2)]


def test_a_block_adds_its_input_back() -> None:
    block = resnet(channels=(4,), blocks=1).stages[0][0].eval()  # type: ignore[index]  # nn.Sequential
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 4, 5, 5)

    torch.testing.assert_close(block(x), x)


def test_teacher_and_student_are_the_classic_pair() -> None:
    def count(a: int, b: int, hidden: int, side: int) -> int:
        flat = b * side * side
        return 3 * 9 * a + a + 9 * a * b + b + flat * hidden + hidden + hidden * 10 + 10

    assert _parameters(teacher()) == count(64, 128, 1000, 8)
    assert _parameters(student()) == count(32, 64, 500, 8)
    assert teacher()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert student(in_channels=1, size=28, classes=4)(torch.zeros(1, 1, 28, 28)).shape == (1, 4)


def test_classic_takes_any_size_of_4_or_more() -> None:
    net = classic(channels=(2, 3), hidden=5, size=(7, 18))
    assert net(torch.zeros(2, 3, 7, 18)).shape == (2, 10)
    with pytest.raises(BadInputError, match="size must be 4 pixels or more a side, not 3x3"):
        classic(channels=(2, 3), hidden=5, size=3)


@pytest.mark.parametrize("build", [resnet, teacher, student])
def test_equal_seeds_give_equal_weights_whatever_ran_before(build: type[nn.Module]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)

    second, other = build(seed=3).state_dict(), build(seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
