"""A width: the same share of every group, in steps, never nothing."""

from __future__ import annotations

import numpy as np
import pytest

from deploykit.compress.prune.choice.uniform import kept_channels, uniform
from deploykit.compress.prune.structure import Group, Member, Role, Structure
from deploykit.core.errors import BadInputError


def group(name: str, channels: int, *, unit: int = 1, locked: str = "") -> Group:
    indices = np.arange(channels * unit).reshape(channels, unit)
    member = Member(f"{name}.weight", 0, indices, Role.WRITES)
    return Group(name, channels, (member,), locked=locked, unit=unit)


@pytest.mark.parametrize(
    ("channels", "unit", "width", "align", "kept"),
    [
        (64, 1, 0.5, 8, 32),
        (24, 1, 0.5, 8, 16),  # 12 lies between; MobileNetV2 rounds halves up
        (96, 1, 0.35, 8, 32),  # 33.6
        (10, 1, 0.9, 8, 10),  # 8 would be more than a tenth below 9, and 16 are not there
        (16, 1, 0.1, 8, 8),
        (4, 1, 0.5, 8, 4),  # less than one step
        (4, 1, 0.1, 1, 1),
        (3, 64, 0.5, 8, 2),  # heads, whole; a width of 64 is a multiple already
        (12, 12, 0.5, 8, 6),  # 72 indices
        (12, 12, 0.4, 8, 6),  # 5 heads are 60 indices, no multiple of 8, and 4 too few
        (1, 64, 0.25, 8, 1),
        (32, 1, 1.0, 8, 32),
    ],
)
def test_how_many_stay(channels: int, unit: int, width: float, align: int, kept: int) -> None:
    assert kept_channels(group("a", channels, unit=unit), width, align) == kept


def test_the_least_important_go_and_locked_groups_stay() -> None:
    structure = Structure((group("a", 6), group("b", 4), group("c", 4, locked="is an output")))
    scores = {"a": np.array([3.0, 1, 2, 9, 8, 0]), "b": np.array([1.0, 1, 1, 1])}

    removed = uniform(structure, scores, 0.5, 1)

    assert {name: gone.tolist() for name, gone in removed.items()} == {"a": [1, 2, 5], "b": [2, 3]}


def test_nothing_that_may_go_is_said() -> None:
    with pytest.raises(BadInputError, match="nothing can be pruned: all 1 groups are locked"):
        uniform(Structure((group("c", 4, locked="is an output"),)), {}, 0.5, 1)
