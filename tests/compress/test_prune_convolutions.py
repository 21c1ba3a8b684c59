"""Convolutions of every kind: what goes with half of the channels of each group, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tests.compress.conftest import Prune

IMAGE = "x=N[1..8]x3x8x8"


def middle(m: Any, x: Tensor) -> Any:
    """A convolution, the one that is looked at, and a classifier."""
    return m.out(m.mid(m.stem(x)).flatten(2).mean(2))


@pytest.mark.parametrize(
    ("stem", "mid", "kept"),
    [
        # Four groups of 4 inputs and 6 outputs: whole groups go, two of four.
        pytest.param(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3, groups=4), (8, (12, 4, 3, 3)),
                     id="grouped"),
        # Two groups of 8 and 16: the same channels inside both.
        pytest.param(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, groups=2), (8, (16, 4, 3, 3)),
                     id="grouped-inside"),
        pytest.param(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), (8, (8, 1, 3, 3)),
                     id="depthwise"),
        pytest.param(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 24, 3, groups=8), (4, (12, 1, 3, 3)),
                     id="depthwise-multiplier-3"),
        pytest.param(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 2, stride=2), (4, (4, 6, 2, 2)),
                     id="transposed"),
        pytest.param(nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 24, 2, groups=2),
                     (8, (8, 6, 2, 2)), id="transposed-grouped"),
        pytest.param(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 2, groups=8), (4, (4, 1, 2, 2)),
                     id="transposed-depthwise"),
        pytest.param(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 2, groups=8), (4, (4, 2, 2, 2)),
                     id="transposed-depthwise-multiplier-2"),
        pytest.param(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, padding="same", dilation=2),
                     (4, (6, 4, 3, 3)), id="same-padding"),
    ],
)  # fmt: skip
def test_half_of_a_convolution(
    prune: Prune, stem: nn.Conv2d, mid: nn.Conv2d, kept: tuple[int, tuple[int, ...]]
) -> None:
    done = prune(middle, IMAGE, stem=stem, mid=mid, out=nn.Linear(mid.out_channels, 5))

    assert done.widths["stem.weight"] == (kept[0], 3, 3, 3)
    assert done.widths["mid.weight"] == kept[1]
    assert done.widths["out.weight"] == (5, mid.out_channels // 2)
    assert set(done.marks.values()) == {"exact"}


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        pytest.param(nn.Conv1d, "20", id="1d"),
        pytest.param(nn.Conv3d, "6x6x6", id="3d"),
        pytest.param(nn.ConvTranspose1d, "9", id="transposed-1d"),
        pytest.param(nn.ConvTranspose3d, "3x3x3", id="transposed-3d"),
    ],
)
def test_other_ranks(prune: Prune, layer: type[nn.Conv1d], size: str) -> None:
    done = prune(
        middle,
        f"x=N[1..8]x3x{size}",
        stem=layer(3, 8, 3),
        mid=layer(8, 12, 3),
        out=nn.Linear(12, 5),
    )

    assert sorted(done.widths["mid.weight"][:2]) == [4, 6]
    assert done.widths["out.weight"] == (5, 6)


def standardised(m: Any, x: Tensor) -> Any:
    """Weight standardisation (Qiao et al., 2019) by hand."""
    weight = m.mid.weight
    mean = weight.mean((1, 2, 3), keepdim=True)
    variance = weight.var((1, 2, 3), keepdim=True)
    weight = (weight - mean) / torch.sqrt(variance + 1e-5)
    return m.out(functional.conv2d(m.stem(x), weight, m.mid.bias).mean((2, 3)))


def through_batch_norm(m: Any, x: Tensor) -> Any:
    """The same as timm writes it."""
    flat = m.mid.weight.reshape(1, 12, -1)
    made = functional.batch_norm(flat, None, None, weight=m.gain, training=True, momentum=0.0)
    made = made.reshape_as(m.mid.weight)
    return m.out(functional.conv2d(m.stem(x), made, m.mid.bias).mean((2, 3)))


@pytest.mark.parametrize("run", [standardised, through_batch_norm])
def test_a_standardised_weight_sees_the_kept_inputs_only(
    prune: Prune, run: Callable[..., object]
) -> None:
    done = prune(
        run,
        IMAGE,
        stem=nn.Conv2d(3, 8, 3),
        mid=nn.Conv2d(8, 12, 3),
        gain=nn.Parameter(torch.ones(12)),
        out=nn.Linear(12, 5),
    )

    assert done.widths["mid.weight"] == (6, 4, 3, 3)
    assert done.marks["stem"] == "renormalised"
    assert done.marks["mid"] == "exact"


def test_a_fixed_filter_for_each_channel_follows(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(
            functional.conv2d(m.stem(x), m.filter.expand(8, 1, 2, 2), groups=8).mean((2, 3))
        ),
        IMAGE,
        stem=nn.Conv2d(3, 8, 3),
        filter=torch.ones(1, 1, 2, 2),
        out=nn.Linear(8, 5),
    )

    assert done.widths["out.weight"] == (5, 4)
    assert done.marks == {"stem": "exact"}


def test_a_fixed_reader_of_what_is_not_zero_is_approximate(prune: Prune) -> None:
    """Nothing is masked there: neither sigmoid(0) nor the filter is zero."""
    done = prune(
        lambda m, x: m.out(functional.conv2d(m.stem(x).sigmoid(), m.filter).mean((2, 3))),
        IMAGE,
        stem=nn.Conv2d(3, 8, 3),
        filter=torch.rand(4, 8, 1, 1),
        out=nn.Linear(4, 5),
    )

    assert done.marks["stem"] == "approximate"


def test_weight_norm(prune: Prune) -> None:
    """A row of zeros has no direction: v / |v| is 0 / 0, so the user's network gives nothing."""
    done = prune(
        lambda m, x: m.out(m.second(m.first(x).relu())),
        "x=N[1..8]x6",
        first=nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)),
        second=nn.Linear(8, 12),
        out=nn.Linear(12, 5),
        zeroed=False,
    )

    assert done.widths["first.parametrizations.weight.original0"] == (4, 1)
    assert done.widths["first.parametrizations.weight.original1"] == (4, 6)


def test_spectral_norm(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.second(m.first(x))),
        "x=N[1..8]x6",
        first=nn.Linear(6, 8),
        second=nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
        out=nn.Linear(8, 5),
    )

    assert done.widths["second.parametrizations.weight.original"] == (4, 4)


def test_spectral_norm_of_a_convolution(prune: Prune) -> None:
    """It flattens the weight before anything says which dimensions are the kernel's extent."""
    normed = nn.utils.parametrizations.spectral_norm
    done = prune(
        middle,
        IMAGE,
        stem=normed(nn.Conv2d(3, 8, 3)),
        mid=normed(nn.Conv2d(8, 12, 3, padding=1)),
        out=normed(nn.Linear(12, 5)),
    )

    assert done.widths["mid.parametrizations.weight.original"] == (6, 4, 3, 3)
    assert done.marks == {"stem.parametrizations.weight": "exact",
                          "mid.parametrizations.weight": "exact"}  # fmt: skip


def test_filters_that_are_fixed_are_read_exactly(prune: Prune) -> None:
    """Three of each channel that comes in, whole (a cellular automaton): the reader is zeroed."""
    done = prune(
        lambda m, x: m.out(m.mix(functional.conv2d(x, m.filters, groups=3)).mean((2, 3))),
        IMAGE,
        filters=torch.rand(6, 1, 3, 3),
        mix=nn.Conv2d(6, 8, 1),
        out=nn.Linear(8, 5),
    )

    assert set(done.marks.values()) == {"exact"}


def modulated(m: Any, x: Tensor) -> Any:
    """A kernel for each sample, made of a style (Karras et al., CVPR 2020, section 2.2)."""
    y = m.stem(x)
    b, c, h, w = y.shape
    kernel = m.kernel * m.style(x.mean((2, 3))).view(b, 1, c, 1, 1)
    kernel = kernel * (kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    mixed = functional.conv2d(y.reshape(1, b * c, h, w), kernel.view(b * 12, c, 3, 3), groups=b)
    return m.out(mixed.view(b, 12, *mixed.shape[2:]).mean((2, 3)))


def test_a_kernel_for_each_sample(prune: Prune) -> None:
    done = prune(modulated, IMAGE, stem=nn.Conv2d(3, 8, 1), style=nn.Linear(3, 8),
                 kernel=nn.Parameter(torch.rand(1, 12, 8, 3, 3)), out=nn.Linear(12, 5))  # fmt: skip

    assert done.widths["kernel"] == (1, 6, 4, 3, 3)
    assert done.widths["style.weight"] == (4, 3)
    assert set(done.marks.values()) == {"exact"}
