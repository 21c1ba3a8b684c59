"""The depthwise separable network: sizes, shapes, shortcuts and seeds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.nets.separable import InvertedResidual, PlainBlock, Stage, separable


def _parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _norm(channels: int) -> int:
    return 2 * channels


def test_a_plain_block_has_the_weights_of_its_formula() -> None:
    k, i, o = 3, 8, 20

    assert _parameters(PlainBlock(i, o, 1)) == k * k * i + i * o + _norm(i) + _norm(o)


@pytest.mark.parametrize("expand", [1, 4])
def test_an_inverted_residual_filters_the_widened_channels(expand: int) -> None:
    i, o = 6, 10
    wide = i * expand
    widen = 0 if expand == 1 else i * wide + _norm(wide)

    found = _parameters(InvertedResidual(i, o, 1, expand))

    assert found == widen + 9 * wide + _norm(wide) + wide * o + _norm(o)


def test_every_3x3_convolution_but_the_stem_is_depthwise() -> None:
    convs = [layer for layer in separable().modules() if isinstance(layer, nn.Conv2d)]
    wide = [conv for conv in convs if conv.kernel_size == (3, 3)]

    assert [conv.groups == conv.in_channels for conv in wide[1:]] == [True] * (len(wide) - 1)
    assert len(wide) == 1 + 2 + 2 + 2
    assert all(conv.groups == 1 for conv in convs if conv.kernel_size == (1, 1))


@pytest.mark.parametrize(
    ("before", "after", "stride", "adds"),
    [(4, 4, 1, True), (4, 6, 1, False), (4, 4, 2, False)],
)
def test_the_input_is_added_where_the_shape_stays(
    before: int, after: int, stride: int, adds: bool
) -> None:
    block = InvertedResidual(before, after, stride, 2).eval()
    for parameter in block.body[-1].parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, before, 6, 6)
    out = block(x)

    assert out.shape == (1, after, -(-6 // stride), -(-6 // stride))
    assert torch.equal(out, x if adds else torch.zeros_like(out))


def test_the_narrow_end_is_linear() -> None:
    assert (InvertedResidual(4, 4, 1, 2)(torch.randn(8, 4, 5, 5)) < 0).any()
    assert (PlainBlock(4, 4, 1)(torch.randn(8, 4, 5, 5)) >= 0).all()


@pytest.mark.parametrize(("size", "channels"), [((28, 28), 1), ((9, 20), 3), ((4, 4), 1)])
def test_any_size_fits(size: tuple[int, int], channels: int) -> None:
    stages = (Stage(4, stride=2), Stage(4, blocks=2, stride=2, expand=2))
    net = separable(stem=4, stages=stages, last=8, in_channels=channels, classes=7).eval()

    assert net(torch.zeros(2, channels, *size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": 0}, "channels of a stage must be 1 or more, not 0"),
        ({"channels": 8, "blocks": 0}, "blocks of a stage must be 1 or more, not 0"),
        ({"channels": 8, "expand": -1}, "expand of a stage must be 0 or more, not -1"),
    ],
)
def test_what_no_stage_can_be_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Stage(**wrong)


def test_equal_seeds_give_equal_weights() -> None:
    first, second, other = (separable(seed=seed).state_dict() for seed in (3, 3, 4))

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
