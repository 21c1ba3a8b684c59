"""The MobileNets: published parameters and MACs, multipliers, small images."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import load_source
from deploykit.load.sources import Source
from deploykit.nets.mobilenet import mobilenet_v1, mobilenet_v2, rounded

if TYPE_CHECKING:
    from collections.abc import Callable


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def macs(net: nn.Module, size: int) -> int:
    found = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal found
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        found += layer.weight.numel() * prod(output.shape[2:])

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    net.eval()(torch.zeros(1, 3, size, size))
    return found


@pytest.mark.parametrize(
    ("build", "expected"), [(mobilenet_v1, 4_231_976), (mobilenet_v2, 3_504_872)]
)
def test_parameters_are_the_published_ones(build: Callable[[], nn.Module], expected: int) -> None:
    assert parameters(build()) == expected


@pytest.mark.parametrize(
    ("build", "width", "millions"),
    [(mobilenet_v1, 1.0, 569), (mobilenet_v1, 0.5, 149), (mobilenet_v2, 1.0, 301)],
)
def test_macs_are_the_published_ones(
    build: Callable[..., nn.Module], width: float, millions: int
) -> None:
    """Howard et al., table 6; Sandler et al., table 4 (300 M)."""
    assert round(macs(build(width=width), 224) / 1e6) == millions


@pytest.mark.parametrize(("width", "expected"), [(0.5, 1_968_680), (1.4, 6_108_776)])
def test_widths_are_torchvisions(width: float, expected: int) -> None:
    assert parameters(mobilenet_v2(width=width)) == expected


@pytest.mark.parametrize("build", [mobilenet_v1, mobilenet_v2])
@pytest.mark.parametrize(
    ("size", "left"), [(224, 7), (96, 3), (64, 4), (32, 4), (28, 4), (8, 4), (2, 2)]
)
def test_small_images_are_halved_less_often(
    build: Callable[..., nn.Module], size: int, left: int
) -> None:
    net = build(size=size, width=0.25, in_channels=1, classes=5).eval()
    seen = []
    net.get_submodule("stages").register_forward_hook(lambda *got: seen.append(got[2].shape[-1]))

    assert net(torch.zeros(1, 1, size, size)).shape == (1, 5)
    assert seen == [left]


def test_channels_are_multiples_and_never_much_fewer() -> None:
    assert [rounded(c) for c in (1, 8, 11, 12, 18, 22.4, 44.8)] == [8, 8, 16, 16, 24, 24, 48]
    assert all(rounded(c) % 8 == 0 and rounded(c) >= 0.9 * c for c in range(1, 400))
    assert rounded(13.2, 1) == 13
    widths = [
        m.out_channels for m in mobilenet_v2(width=0.35).modules() if isinstance(m, nn.Conv2d)
    ]
    assert all(width % 8 == 0 for width in widths)


def test_it_is_a_source_with_options() -> None:
    options = {"width": 0.25, "size": 28, "classes": 10, "in_channels": 1}
    source = Source(
        "deploykit.nets.mobilenet:mobilenet_v2",
        inputs=parse_inputs(["x=N[1..4]x1x28x28"]),
        options=options,
    )

    model = load_source(source)
    assert model.module(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_equal_seeds_give_equal_weights() -> None:
    one, two, other = (mobilenet_v1(width=0.1, classes=3, seed=s).state_dict() for s in (1, 1, 2))

    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"width": 0.0}, "width must be above 0, not 0"),
        ({"size": 0}, "size must be 1 or more, not 0"),
        ({"classes": 0}, "classes must be 1 or more, not 0"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, not 1"),
    ],
)
def test_what_no_network_can_have_is_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        mobilenet_v1(**wrong)  # type: ignore[arg-type]  # of the parameters' own types
