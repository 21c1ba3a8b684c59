"""What joins and parts tensors: residual sums, concatenation, splits, slices, lookups, copies."""

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

    Parts = dict[str, Any]
    Widths = dict[str, tuple[int, ...]]

IMAGE = "x=N[1..8]x3x8x8"
VECTOR = "x=N[1..8]x3"


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def conv(inputs: int, outputs: int, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel)


def residual(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.out(pooled(y + m.c(m.b(y).relu())))


def dense(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    y = torch.cat([y, m.b(y).relu()], 1)
    y = torch.cat([y, m.c(y)], 1)
    return m.out(pooled(m.norm(y)))


def cross_stage(m: Any, x: Tensor) -> Any:
    one, other = m.a(x).chunk(2, 1)
    return m.out(pooled(torch.cat([one, m.b(other)], 1)))


def split_by_sizes(m: Any, x: Tensor) -> Any:
    one, two, three = m.a(x).split([3, 5, 8], 1)
    return m.out(pooled(torch.cat([m.b(one), two, three], 1)))


def tensor_split(m: Any, x: Tensor) -> Any:
    one, two, three = m.a(x).tensor_split(3, 1)
    return m.out(pooled(torch.cat([m.b(one), two, three], 1)))


def horizontal_split(m: Any, x: Tensor) -> Any:
    one, other = m.a(x).hsplit(2)
    return m.out(pooled(one + other))


def unbound(m: Any, x: Tensor) -> Any:
    q, k, v = m.a(x).unflatten(-1, (3, 8)).unbind(-2)
    return m.out(q * k + v)


def even_and_odd(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.out(pooled(torch.cat([y[:, 1::2], m.b(y[:, ::2])], 1)))


def written_in_runs(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    made = torch.zeros_like(y)
    made[:, :4] = y[:, 4:8]
    made[:, 4:] = y[:, 4:]
    return m.out(pooled(m.b(made)))


def written_in_steps(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    made = torch.empty_like(y)
    made[:, ::2] = y[:, 1::2]
    made[:, 1::2] = -y[:, ::2]
    return m.out(pooled(m.b(made)))


def spread_by_expand(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.out(y * m.b(x).mean(-1, keepdim=True).expand_as(y))


def squeezed(m: Any, x: Tensor) -> Any:
    """Of two channels one is left: `squeeze()` must not take it for a dimension of size 1."""
    return m.out(functional.adaptive_avg_pool2d(m.a(x), 1).squeeze((1, 2, 3)))


CASES: dict[str, tuple[Callable[..., object], str, Parts, Widths]] = {
    "residual": (
        residual, IMAGE,
        {"a": conv(3, 8), "b": conv(8, 4), "c": conv(4, 8), "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3, 1, 1), "b.weight": (2, 4, 1, 1), "c.weight": (4, 2, 1, 1)},
    ),
    "sum with a vector": (
        lambda m, x: m.out(pooled(m.a(x) + m.v)), IMAGE,
        {"a": conv(3, 8), "v": nn.Parameter(torch.rand(8, 1, 1)), "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3, 1, 1), "v": (4, 1, 1)},
    ),
    "sum with one channel": (
        lambda m, x: m.out(pooled(m.a(x) + m.b(x))), IMAGE,
        {"a": conv(3, 8), "b": conv(3, 1), "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3, 1, 1), "b.weight": (1, 3, 1, 1)},
    ),
    "layer scale": (
        lambda m, x: m.out(m.a(x) + m.scale * m.b(m.a(x))), VECTOR,
        {"a": nn.Linear(3, 8), "b": nn.Linear(8, 8), "scale": nn.Parameter(torch.ones(8)),
         "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3), "b.weight": (4, 4), "scale": (4,)},
    ),
    "dense": (
        dense, IMAGE,
        {"a": conv(3, 8), "b": conv(8, 4), "c": conv(12, 6), "norm": nn.BatchNorm2d(18),
         "out": nn.Linear(18, 5)},
        {"b.weight": (2, 4, 1, 1), "c.weight": (3, 6, 1, 1), "norm.weight": (9,)},
    ),
    "chunk": (
        cross_stage, IMAGE, {"a": conv(3, 16), "b": conv(8, 8), "out": nn.Linear(16, 5)},
        {"a.weight": (8, 3, 1, 1), "b.weight": (4, 4, 1, 1), "out.weight": (5, 8)},
    ),
    "split": (
        split_by_sizes, IMAGE, {"a": conv(3, 16), "b": conv(3, 4), "out": nn.Linear(17, 5)},
        {"a.weight": (8, 3, 1, 1), "b.weight": (2, 1, 1, 1), "out.weight": (5, 9)},
    ),
    "tensor_split": (
        tensor_split, IMAGE, {"a": conv(3, 16), "b": conv(6, 4), "out": nn.Linear(14, 5)},
        {"b.weight": (2, 3, 1, 1), "out.weight": (5, 7)},
    ),
    "hsplit": (
        horizontal_split, IMAGE, {"a": conv(3, 16), "out": nn.Linear(8, 5)},
        {"a.weight": (8, 3, 1, 1), "out.weight": (5, 4)},
    ),
    "unbind": (
        unbound, VECTOR, {"a": nn.Linear(3, 24), "out": nn.Linear(8, 5)},
        {"a.weight": (12, 3), "out.weight": (5, 4)},
    ),
    "slice with a step": (
        even_and_odd, IMAGE, {"a": conv(3, 16), "b": conv(8, 8), "out": nn.Linear(16, 5)},
        {"a.weight": (8, 3, 1, 1), "b.weight": (4, 4, 1, 1), "out.weight": (5, 8)},
    ),
    "slice from the end": (
        lambda m, x: m.out(pooled(m.a(x)[:, -6:-2])), IMAGE,
        {"a": conv(3, 16), "out": nn.Linear(4, 5)},
        {"out.weight": (5, 2)},
    ),
    "narrow": (
        lambda m, x: m.out(pooled(m.a(x).narrow(1, 2, 6))), IMAGE,
        {"a": conv(3, 16), "out": nn.Linear(6, 5)},
        {"out.weight": (5, 3)},
    ),
    "written to slice by slice": (
        written_in_runs, IMAGE, {"a": conv(3, 16), "b": conv(16, 8), "out": nn.Linear(8, 5)},
        {"a.weight": (8, 3, 1, 1), "b.weight": (4, 8, 1, 1)},
    ),
    "written to in steps": (
        written_in_steps, IMAGE, {"a": conv(3, 16), "b": conv(16, 8), "out": nn.Linear(8, 5)},
        {"a.weight": (8, 3, 1, 1), "b.weight": (4, 8, 1, 1)},
    ),
    "pads of channels": (
        lambda m, x: m.out(pooled(m.b(x) + functional.pad(m.a(x), (0, 0, 0, 0, 2, 4)))), IMAGE,
        {"a": conv(3, 8), "b": conv(3, 14), "out": nn.Linear(14, 5)},
        {"a.weight": (4, 3, 1, 1), "b.weight": (7, 3, 1, 1)},
    ),
    "pads of channels with a number": (
        lambda m, x: m.out(pooled(m.b(x) + functional.pad(m.a(x), (0, 0, 0, 0, 2, 4), value=1.5))),
        IMAGE, {"a": conv(3, 8), "b": conv(3, 14), "out": nn.Linear(14, 5)},
        {"a.weight": (4, 3, 1, 1), "b.weight": (7, 3, 1, 1)},
    ),
    "pads before a reader": (
        lambda m, x: m.out(pooled(m.b(functional.pad(m.a(x), (0, 0, 0, 0, 2, 4))))), IMAGE,
        {"a": conv(3, 8), "b": conv(14, 6), "out": nn.Linear(6, 5)},
        {"a.weight": (4, 3, 1, 1), "b.weight": (3, 10, 1, 1)},
    ),
    "looked up by known indices": (
        lambda m, x: m.out(m.a(x)[:, m.index]), VECTOR,
        {"a": nn.Linear(3, 8), "index": torch.tensor([5, 1, 1, 7]), "out": nn.Linear(4, 5)},
        {"a.weight": (5, 3), "out.weight": (5, 3)},  # 5 and 7 alike, 1 alone, 5 that nobody reads
    ),
    "looked up by a known mask": (
        lambda m, x: m.out(m.a(x)[:, m.mask]), VECTOR,
        {"a": nn.Linear(3, 8), "mask": torch.tensor([True, False] * 4), "out": nn.Linear(4, 5)},
        {"a.weight": (4, 3), "out.weight": (5, 2)},
    ),
    "index_select": (
        lambda m, x: m.out(m.a(x).index_select(1, m.index)), VECTOR,
        {"a": nn.Linear(3, 8), "index": torch.tensor([3, 2, 1, 0]), "out": nn.Linear(4, 5)},
        {"a.weight": (4, 3), "out.weight": (5, 2)},
    ),
    "flip": (
        lambda m, x: m.out(m.a(x) + m.a(x).flip(1)), VECTOR,
        {"a": nn.Linear(3, 8), "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3), "out.weight": (5, 4)},
    ),
    "repeat": (
        lambda m, x: m.out(m.b(m.a(x).repeat(1, 3))), VECTOR,
        {"a": nn.Linear(3, 8), "b": nn.Linear(24, 8), "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3), "b.weight": (4, 12)},
    ),
    "repeat_interleave": (
        lambda m, x: m.out(m.b(m.a(x).repeat_interleave(3, 1))), VECTOR,
        {"a": nn.Linear(3, 8), "b": nn.Linear(24, 8), "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3), "b.weight": (4, 12)},
    ),
    "expand_as": (
        spread_by_expand, VECTOR,
        {"a": nn.Linear(3, 8), "b": nn.Linear(3, 6), "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3), "b.weight": (3, 3)},
    ),
    "where": (
        lambda m, x: m.out(torch.where(m.a(x) > 0, m.a(x), m.b(x))), VECTOR,
        {"a": nn.Linear(3, 8), "b": nn.Linear(3, 8), "out": nn.Linear(8, 5)},
        {"a.weight": (4, 3), "b.weight": (4, 3)},
    ),
    "squeeze": (
        squeezed, IMAGE, {"a": conv(3, 2), "out": nn.Linear(2, 5)}, {"a.weight": (1, 3, 1, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_is_exact_and_no_more_than_asked(prune: Prune, name: str) -> None:
    run, inputs, parts, widths = CASES[name]

    done = prune(run, inputs, **parts)

    assert {key: done.widths[key] for key in widths} == widths
    assert not [why for why in done.locks.values() if "is an output" not in why]


def test_one_channel_that_is_selected_stays(prune: Prune) -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.out(pooled(y * y[:, -2].sigmoid().unsqueeze(1)))

    done = prune(run, IMAGE, a=conv(3, 16), out=nn.Linear(16, 5))

    assert done.widths["a.weight"] == (8, 3, 1, 1)
    (locked,) = (group for group in done.structure.groups if "selected" in group.locked)
    assert locked.channels == 1
    assert locked.members[0].indices.tolist() == [[14]]


def test_a_temporal_shift(prune: Prune) -> None:
    """Channels of other moments, copied into a tensor of zeros (Lin et al., ICCV 2019)."""

    def run(m: Any, x: Tensor) -> Any:
        y = m.a(x).view(-1, 2, 16, 8, 8)
        made = torch.zeros_like(y)
        made[:, :-1, :4] = y[:, 1:, :4]
        made[:, 1:, 4:8] = y[:, :-1, 4:8]
        made[:, :, 8:] = y[:, :, 8:]
        return m.out(pooled(m.b(made.view(-1, 16, 8, 8))))

    done = prune(run, "x=N[2..8:2]x3x8x8", a=conv(3, 16), b=conv(16, 8), out=nn.Linear(8, 5))

    assert done.widths["b.weight"] == (4, 8, 1, 1)
