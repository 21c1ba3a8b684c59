"""Random networks from a small grammar, cut at random: every check of the fixture, every time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tests.compress.conftest import Prune

CHANNELS = (4, 6, 8, 12)
STEPS = (
    "conv", "grouped", "depthwise", "batch norm", "group norm", "relu", "sigmoid", "add", "gate",
    "cat", "split", "shuffle", "squeeze", "pool", "pad", "slice", "flip",
)  # fmt: skip


class Grown(nn.Module):
    """One step after another; what was before stays within reach for sums and concatenations."""

    def __init__(self, steps: list[tuple[str, int]]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.layers = nn.ModuleList()
        self.steps: list[Callable[[Any, list[Tensor]], Tensor]] = []
        widths = [8]
        for step, number in steps:
            make = getattr(self, "_" + step.replace(" ", "_"))
            run, width = make(widths, number)
            self.steps.append(run)
            widths.append(width)
        self.out = nn.Linear(widths[-1], 5)

    def forward(self, x: Tensor) -> Any:
        known = [self.stem(x)]
        for step in self.steps:
            known.append(step(self, known))
        return self.out(known[-1].mean((2, 3)))

    def _layer(self, layer: nn.Module, width: int) -> Any:
        at = len(self.layers)
        self.layers.append(layer)
        return lambda m, known: m.layers[at](known[-1]), width

    def _conv(self, widths: list[int], number: int) -> Any:
        width = CHANNELS[number % len(CHANNELS)]
        return self._layer(nn.Conv2d(widths[-1], width, 3, padding=1), width)

    def _grouped(self, widths: list[int], number: int) -> Any:
        groups = next(g for g in ((2, 4)[number % 2], 2, 1) if widths[-1] % g == 0)
        width = groups * (1 + number % 5)
        return self._layer(nn.Conv2d(widths[-1], width, 1, groups=groups), width)

    def _depthwise(self, widths: list[int], number: int) -> Any:
        width = widths[-1] * (1 + number % 2)
        return self._layer(nn.Conv2d(widths[-1], width, 1, groups=widths[-1]), width)

    def _batch_norm(self, widths: list[int], number: int) -> Any:
        return self._layer(nn.BatchNorm2d(widths[-1]), widths[-1])

    def _group_norm(self, widths: list[int], number: int) -> Any:
        return self._layer(
            nn.GroupNorm(1 + number % 2 * (1 - widths[-1] % 2), widths[-1]), widths[-1]
        )

    def _relu(self, widths: list[int], number: int) -> Any:
        return lambda m, known: known[-1].relu(), widths[-1]

    def _sigmoid(self, widths: list[int], number: int) -> Any:
        return lambda m, known: known[-1].sigmoid(), widths[-1]

    def _add(self, widths: list[int], number: int) -> Any:
        like = [at for at, width in enumerate(widths) if width == widths[-1]]
        at = like[number % len(like)]
        return lambda m, known: known[-1] + known[at], widths[-1]

    def _gate(self, widths: list[int], number: int) -> Any:
        like = [at for at, width in enumerate(widths) if width == widths[-1]]
        at = like[number % len(like)]
        return lambda m, known: known[-1] * known[at].sigmoid(), widths[-1]

    def _cat(self, widths: list[int], number: int) -> Any:
        at = number % len(widths)
        return lambda m, known: torch.cat([known[-1], known[at]], 1), widths[-1] + widths[at]

    def _split(self, widths: list[int], number: int) -> Any:
        sizes = [widths[-1] // 2, widths[-1] - widths[-1] // 2]
        which = number % 2 if sizes[0] else 1
        return lambda m, known: known[-1].split(sizes, 1)[which], sizes[which]

    def _shuffle(self, widths: list[int], number: int) -> Any:
        groups = 2 if widths[-1] % 2 == 0 else 1
        return lambda m, known: functional.channel_shuffle(known[-1], groups), widths[-1]

    def _squeeze(self, widths: list[int], number: int) -> Any:
        at = len(self.layers)
        self.layers.extend([nn.Conv2d(widths[-1], 4, 1), nn.Conv2d(4, widths[-1], 1)])

        def run(m: Any, known: list[Tensor]) -> Any:
            gate = m.layers[at](known[-1].mean((2, 3), keepdim=True)).relu()
            return known[-1] * m.layers[at + 1](gate).tanh()

        return run, widths[-1]

    def _pool(self, widths: list[int], number: int) -> Any:
        return lambda m, known: functional.avg_pool2d(known[-1], 3, 1, 1), widths[-1]

    def _pad(self, widths: list[int], number: int) -> Any:
        before, after = number % 3, number % 2
        return (
            lambda m, known: functional.pad(known[-1], (0, 0, 0, 0, before, after)),
            widths[-1] + before + after,
        )

    def _slice(self, widths: list[int], number: int) -> Any:
        start, step = number % 2, 1 + number % 3
        if widths[-1] <= start + step:
            start, step = 0, 1
        return lambda m, known: known[-1][:, start::step], len(range(start, widths[-1], step))

    def _flip(self, widths: list[int], number: int) -> Any:
        return lambda m, known: known[-1].flip(1), widths[-1]


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=some.lists(
        some.tuples(some.sampled_from(STEPS), some.integers(0, 59)), min_size=3, max_size=9
    ),
    share=some.sampled_from([0.3, 0.5, 0.8]),
)
def test_a_random_network_cut_at_random(
    prune: Prune, steps: list[tuple[str, int]], share: float
) -> None:
    torch.manual_seed(0)

    done = prune(Grown(steps), "x=N[1..8]x3x4x4", share=share, gradients=False)

    assert all("no pruning rule" not in why for why in done.locks.values())
