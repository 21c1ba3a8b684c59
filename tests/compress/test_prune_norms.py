"""Norms: by channel they stay exact, over channels they see what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from tests.compress.conftest import Prune

IMAGE = "x=N[1..8]x3x8x8"


def image_net(m: Any, x: Tensor) -> Any:
    return m.out(m.after(m.norm(m.stem(x))).mean((2, 3)))


def token_net(m: Any, x: Tensor) -> Any:
    return m.out(m.after(m.norm(m.stem(x))).mean(1))


@pytest.mark.parametrize(
    ("norm", "mark"),
    [
        pytest.param(nn.BatchNorm2d(8), "exact", id="batch"),
        pytest.param(nn.BatchNorm2d(8, affine=False), "exact", id="batch-plain"),
        pytest.param(nn.InstanceNorm2d(8, affine=True), "exact", id="instance"),
        pytest.param(nn.InstanceNorm2d(8, track_running_stats=True), "exact", id="instance-kept"),
        pytest.param(nn.GroupNorm(1, 8), "renormalised", id="group-1"),
        pytest.param(nn.GroupNorm(2, 8), "renormalised", id="group-2: inside"),
        pytest.param(nn.GroupNorm(4, 8), "exact", id="group-4: whole"),
        pytest.param(nn.GroupNorm(8, 8), "exact", id="group-8"),
        pytest.param(nn.LayerNorm((8, 6, 6)), "renormalised", id="layer-over-everything"),
    ],
)
def test_norms_of_images(prune: Prune, norm: nn.Module, mark: str) -> None:
    done = prune(
        image_net,
        IMAGE,
        stem=nn.Conv2d(3, 8, 3),
        norm=norm,
        after=nn.Conv2d(8, 6, 1),
        out=nn.Linear(6, 5),
    )

    assert done.widths["after.weight"] == (3, 4, 1, 1)
    assert done.marks == {"stem": mark, "after": "exact"}
    for name, shape in done.widths.items():
        assert not name.startswith("norm") or shape[0] == 4


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(8)],
    ids=["layer", "layer-plain", "rms"],
)
def test_norms_of_tokens(prune: Prune, norm: nn.Module) -> None:
    done = prune(
        token_net,
        "x=N[1..8]x7x3",
        stem=nn.Linear(3, 8),
        norm=norm,
        after=nn.Linear(8, 6),
        out=nn.Linear(6, 5),
    )

    assert done.widths["after.weight"] == (3, 4)
    assert done.marks == {"stem": "renormalised", "after": "exact"}


def test_an_rms_norm_by_hand(prune: Prune) -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = m.stem(x)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * m.scale
        return m.out(m.after(y).mean(1))

    done = prune(
        run,
        "x=N[1..8]x7x3",
        stem=nn.Linear(3, 8),
        scale=nn.Parameter(torch.ones(8)),
        after=nn.Linear(8, 6),
        out=nn.Linear(6, 5),
    )

    assert done.widths["scale"] == (4,)
    assert done.marks["stem"] == "renormalised"


def test_a_norm_over_heads_and_width(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.norm(m.stem(x).unflatten(-1, (4, 6))).flatten(1)),
        "x=N[1..8]x3",
        stem=nn.Linear(3, 24),
        norm=nn.LayerNorm((4, 6)),
        out=nn.Linear(24, 5),
    )

    assert done.widths["norm.weight"] == (4, 3)


def test_a_norm_that_looks_at_neighbours_locks_by_name(prune: Prune) -> None:
    done = prune(
        image_net,
        IMAGE,
        stem=nn.Conv2d(3, 8, 3),
        norm=nn.LocalResponseNorm(3),
        after=nn.Conv2d(8, 6, 1),
        out=nn.Linear(6, 5),
    )

    assert "avg_pool3d runs over it" in done.locks["stem"]
    assert done.widths["after.weight"] == (3, 8, 1, 1)


def test_global_response_norm(prune: Prune) -> None:
    """ConvNeXt V2 (Woo et al., CVPR 2023, section 3): a mean over all channels."""

    def run(m: Any, x: Tensor) -> Any:
        y = m.stem(x)
        size = y.norm(dim=(2, 3), keepdim=True)
        share = size / (size.mean(1, keepdim=True) + 1e-6)
        return m.out((y + m.scale * (y * share) + m.shift).mean((2, 3)))

    done = prune(
        run,
        IMAGE,
        stem=nn.Conv2d(3, 8, 3),
        scale=nn.Parameter(torch.ones(1, 8, 1, 1)),
        shift=nn.Parameter(torch.ones(1, 8, 1, 1)),
        out=nn.Linear(8, 5),
    )

    assert done.widths["scale"] == (1, 4, 1, 1)
    assert done.marks == {"stem": "renormalised"}


def test_norms_and_dropout_follow_the_mode(prune: Prune) -> None:
    """In training the cut network drops, and its running statistics move."""
    done = prune(
        lambda m, x: m.out(m.drop(m.norm(m.stem(x))).mean((2, 3))),
        IMAGE,
        stem=nn.Conv2d(3, 8, 3),
        norm=nn.BatchNorm2d(8),
        drop=nn.Dropout(0.5),
        out=nn.Linear(8, 5),
    )
    small, image = done.module, torch.ones(2, 3, 8, 8)
    before = dict(small.named_buffers())["norm.running_mean"].clone()

    with torch.no_grad():
        assert torch.equal(small(image), small(image))
        small.train()
        assert not torch.equal(small(image), small(image))
    assert not torch.equal(dict(small.named_buffers())["norm.running_mean"], before)
