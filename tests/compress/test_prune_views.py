"""Views that merge and split dimensions: shuffles, flattening, pixels into channels and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from deploykit.compress.prune.analysis.trace import Trace, Value
from deploykit.compress.prune.analysis.views import blocks, reshape

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tests.compress.conftest import Prune

IMAGE = "x=N[1..8]x3x8x8"


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ((2, 12), (2, 3, 4), [((0,), (0,)), ((1,), (1, 2))]),
        ((2, 3, 4), (6, 4), [((0, 1), (0,)), ((2,), (1,))]),
        ((4, 6), (8, 3), [((0, 1), (0, 1))]),
        ((1, 4), (4, 1, 1), [((1,), (0,))]),
        ((1, 1), (), []),
        ((5, 1, 7), (5, 7), [((0,), (0,)), ((2,), (1,))]),
    ],
)
def test_runs_of_dimensions(
    old: tuple[int, ...],
    new: tuple[int, ...],
    found: list[tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    assert blocks(old, new) == found


def labelled(trace: Trace, *shape: int) -> Value:
    """A tensor that can be cut along every dimension."""
    return Value(shape, tuple((trace.labels.fresh(size),) for size in shape))


def test_what_merges_splits_again_as_it_was() -> None:
    trace = Trace()
    value = labelled(trace, 3, 4)

    merged = reshape(trace, value, (12,), "merge")
    again = reshape(trace, merged, (3, 4), "split")

    assert len(merged.axes[0]) == 2
    for dim in (0, 1):
        ((before,), (after,)) = value.axes[dim], again.axes[dim]
        assert trace.labels.find(before).tolist() == trace.labels.find(after).tolist()
    assert not trace.choices


def test_a_split_goes_to_the_piece_with_most_channels() -> None:
    trace = Trace()
    value = labelled(trace, 12)

    parted = reshape(trace, value, (3, 4), "split")

    assert [len(axis) for axis in parted.axes] == [0, 1]
    ((column,),) = value.axes
    sets = trace.labels.find(column).reshape(3, 4)
    assert (sets == sets[0]).all()
    assert len(np.unique(sets)) == 4
    assert [choice.alternatives for choice in trace.choices] == [(1, 0)]


def test_a_preset_sends_it_elsewhere() -> None:
    trace = Trace(preset={"split/0/0": 0})
    value = labelled(trace, 12)

    parted = reshape(trace, value, (3, 4), "split")

    assert [len(axis) for axis in parted.axes] == [1, 0]


def test_a_batch_in_a_piece_does_not_count() -> None:
    """(2, 12) as (2·3, 4): the piece of six has three kinds of channels, the other four."""
    trace = Trace()
    value = Value((2, 12), ((), (trace.labels.fresh(12),)))

    parted = reshape(trace, value, (6, 4), "split")

    assert [len(axis) for axis in parted.axes] == [0, 1]


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def shuffled(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    y = y.view(y.shape[0], 2, 8, 8, 8).transpose(1, 2).reshape(y.shape)
    return m.out(pooled(m.b(y)))


def pixels_out(m: Any, x: Tensor) -> Any:
    y = m.a(x).unflatten(1, (8, 2, 2)).permute(0, 1, 4, 2, 5, 3)
    return m.out(pooled(m.b(y.reshape(-1, 8, 16, 16))))


def pixels_in(m: Any, x: Tensor) -> Any:
    y = m.a(x).view(-1, 8, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4)
    return m.out(pooled(m.b(y.reshape(-1, 32, 4, 4))))


def focus(m: Any, x: Tensor) -> Any:
    """Every second pixel, four times (YOLOv5)."""
    y = m.a(x)
    parts = [y[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return m.out(pooled(m.b(torch.cat(parts, 1))))


@pytest.mark.parametrize(
    ("run", "a", "b", "kept"),
    [
        pytest.param(
            lambda m, x: m.out(pooled(m.b(functional.channel_shuffle(m.a(x), 4)))),
            nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1), (8, 8), id="channel shuffle",
        ),
        pytest.param(shuffled, nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1), (8, 8),
                     id="channel shuffle by hand"),
        pytest.param(shuffled, nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1, groups=2), (8, 4),
                     id="channel shuffle into groups"),
        pytest.param(
            lambda m, x: m.out(pooled(m.b(functional.pixel_shuffle(m.a(x), 2)))),
            nn.Conv2d(3, 32, 1), nn.Conv2d(8, 6, 1), (16, 4), id="pixel shuffle",
        ),
        pytest.param(pixels_out, nn.Conv2d(3, 32, 1), nn.Conv2d(8, 6, 1), (16, 4),
                     id="pixel shuffle by hand"),
        pytest.param(
            lambda m, x: m.out(pooled(m.b(functional.pixel_unshuffle(m.a(x), 2)))),
            nn.Conv2d(3, 8, 1), nn.Conv2d(32, 6, 1), (4, 16), id="pixel unshuffle",
        ),
        pytest.param(pixels_in, nn.Conv2d(3, 8, 1), nn.Conv2d(32, 6, 1), (4, 16),
                     id="pixel unshuffle by hand"),
        pytest.param(focus, nn.Conv2d(3, 8, 1), nn.Conv2d(32, 6, 1), (4, 16), id="focus"),
        pytest.param(
            lambda m, x: m.out(pooled(m.b(functional.fold(functional.unfold(m.a(x), 2), 8, 2)))),
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), (4, 4), id="unfold and fold",
        ),
    ],
)  # fmt: skip
def test_channels_through_views(
    prune: Prune, run: Callable[..., object], a: nn.Conv2d, b: nn.Conv2d, kept: tuple[int, int]
) -> None:
    done = prune(run, IMAGE, a=a, b=b, out=nn.Linear(b.out_channels, 5))

    assert done.widths["a.weight"][0] == kept[0]
    assert done.widths["b.weight"][1] == kept[1]
    assert done.widths["out.weight"] == (5, b.out_channels // 2)


@pytest.mark.parametrize(
    "order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["channels first", "channels last"]
)
def test_flatten_before_a_classifier(prune: Prune, order: tuple[int, ...]) -> None:
    done = prune(
        lambda m, x: m.out(m.a(x).permute(order).flatten(1)),
        IMAGE,
        a=nn.Conv2d(3, 8, 1),
        out=nn.Linear(512, 5),
    )

    assert done.widths["out.weight"] == (5, 256)
    members = {(m.parameter, m.dim): m for group in done.structure.free for m in group.members}
    assert members["out.weight", 1].indices.shape == (8, 64)


def test_two_independent_cuts_in_one_dimension_lock(prune: Prune) -> None:
    """An outer product: what a linear layer reads would have to follow both factors."""
    done = prune(
        lambda m, x: m.out((m.a(x)[:, :, None] * m.b(x)[:, None, :]).flatten(1)),
        "x=N[1..8]x3",
        a=nn.Linear(3, 8),
        b=nn.Linear(3, 6),
        out=nn.Linear(48, 5),
    )

    assert "two independent cuts" in done.locks["a"]
    assert "two independent cuts" in done.locks["b"]
