"""Which blocks stay where a share of the depth does: runs of equal ones, evenly thinned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from torch import nn

from deploykit.compress.prune.depth.spread import Run, runs_of
from deploykit.compress.prune.graph.program import program_of
from deploykit.core.types import Model
from deploykit.load.inputs import parse_inputs
from deploykit.nets.resnet import resnet

if TYPE_CHECKING:
    from torch import Tensor


class Wrapped(nn.Module):
    """A branch beside its stream."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.branch(x)
        return x + branch


class Inverted(nn.Module):
    """MobileNetV2's block: where it changes the shape there is no sum."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        wide = 2 * inner
        self.layers = nn.Sequential(
            nn.Conv2d(inner, wide, 1), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.ReLU6(),
            nn.Conv2d(wide, outer, 1),
        )  # fmt: skip
        self.adds = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.adds else out


def runs(module: nn.Module, spec: str) -> tuple[Run, ...]:
    return runs_of(program_of(Model(module.eval(), parse_inputs([spec]))))


def names(*units: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(unit.split()) for unit in units)


def test_a_stage_counts_its_projected_first_block() -> None:
    found = runs(resnet(channels=(8, 16), blocks=3), "x=N[1..4]x1x8x8")

    assert [(run.units, run.opened) for run in found] == [
        (names("stages.0.0", "stages.0.1", "stages.0.2"), False),
        (names("stages.1.1", "stages.1.2"), True),
    ]


def test_a_first_block_without_a_sum_counts_too() -> None:
    stage = (Inverted(8, 16, 2), Inverted(16, 16, 1), Inverted(16, 16, 1))

    (found,) = runs(nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), *stage), "x=N[1..4]x1x8x8")

    assert (found.units, found.opened) == (names("2", "3"), True)


def test_layers_of_attention_and_mlp_are_units() -> None:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers.append(Wrapped(nn.LayerNorm(8), nn.Linear(8, 8)))
        layers.append(Wrapped(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)))

    (found,) = runs(nn.Sequential(nn.Linear(6, 8), *layers, nn.LayerNorm(8)), "x=N[1..4]x5x6")

    assert found.units == names("1 2", "3 4", "5 6", "7 8")
    assert found.gone(0.5) == ("3", "4", "7", "8")


def test_what_is_not_alike_or_apart_is_another_run() -> None:
    def plain() -> nn.Module:
        return Wrapped(nn.Linear(8, 8))

    between = nn.Linear(8, 8)
    other = Wrapped(nn.LayerNorm(8), nn.Linear(8, 8))
    found = runs(nn.Sequential(plain(), plain(), other, between, plain()), "x=N[1..4]x8")

    # The layer between has all the layers of a block, as the first of a stage has.
    assert [(run.units, run.opened) for run in found] == [
        (names("0", "1"), False), (names("2"), False), (names("4"), True),
    ]  # fmt: skip


def test_blocks_in_a_long_shortcut_are_a_run_of_their_own() -> None:
    body = Wrapped(*(Wrapped(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()) for _ in range(4)))

    found = runs(nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), body), "x=N[1..4]x1x8x8")

    gone = [name for run in found for name in run.gone(0.5)]
    assert sorted(len(run.units) for run in found) == [1, 4]
    assert gone == ["1.branch.1", "1.branch.3"]


def test_sizes_within_a_run_may_differ() -> None:
    blocks = [Wrapped(nn.Linear(8, wide), nn.ReLU(), nn.Linear(wide, 8)) for wide in (40, 24, 24)]

    (found,) = runs(nn.Sequential(*blocks), "x=N[1..4]x8")

    assert found.units == names("0", "1", "2")


@pytest.mark.parametrize(
    ("blocks", "opened", "depth", "stay"),
    [
        (12, False, 0.5, [0, 2, 4, 6, 8, 10]),
        (12, False, 0.25, [0, 4, 8]),
        (4, False, 0.75, [0, 1, 2]),
        (3, False, 0.5, [0, 1]),  # halves are rounded up
        (2, False, 0.01, [0]),
        (3, True, 0.5, [1]),  # of four with the first: that, and the third
        (1, True, 0.5, []),
        (1, False, 0.5, [0]),
        (5, True, 1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_those_that_stay_are_evenly_spread(
    blocks: int, opened: bool, depth: float, stay: list[int]
) -> None:
    run = Run(tuple((str(place),) for place in range(blocks)), opened)

    gone = run.gone(depth)

    assert [place for place in range(blocks) if str(place) not in gone] == stay
    assert len(gone) <= run.can_go


def test_a_network_without_sums_has_no_runs() -> None:
    assert runs(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), "x=N[1..4]x8") == ()
