"""Which channels go: the aim, the limits of groups, alignment, and who competes with whom."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from deploykit.compress.prune.choice.candidates import candidates
from deploykit.compress.prune.choice.footprint import footprint
from deploykit.compress.prune.choice.select import Selection, select
from deploykit.compress.prune.options import PruneOptions
from deploykit.compress.prune.structure import Exactness, Group, Member, Role, Structure
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from deploykit.compress.prune.choice.footprint import Kept
    from deploykit.compress.prune.choice.ranking import Integers
    from deploykit.compress.prune.choice.select import Steps

    Problem = tuple[
        Structure, dict[str, tuple[int, ...]], dict[str, NDArray[np.float64]], PruneOptions
    ]


def member(
    parameter: str, dim: int, channels: int, role: Role, *, first: int = 0, unit: int = 1
) -> Member:
    """`unit` indices a channel, one behind the other, from index `first` on."""
    indices = first + np.arange(channels * unit).reshape(channels, unit)
    return Member(parameter, dim, indices, role)


def chain(*widths: int, kernel: int = 3) -> tuple[Structure, dict[str, tuple[int, ...]]]:
    """Convolutions one behind the other; all but the last give a group."""
    shapes: dict[str, tuple[int, ...]] = {
        f"conv{n}.weight": (wide, before, kernel, kernel)
        for n, (before, wide) in enumerate(pairwise((3, *widths)))
    }
    groups = tuple(
        Group(
            f"conv{n}",
            wide,
            (
                member(f"conv{n}.weight", 0, wide, Role.WRITES),
                member(f"conv{n + 1}.weight", 1, wide, Role.READS),
            ),
        )
        for n, wide in enumerate(widths[:-1])
    )
    return Structure(groups), shapes


def kept_of(structure: Structure, selection: Selection) -> dict[str, int]:
    return {
        group.name: group.channels - len(selection.removed.get(group.name, ()))
        for group in structure.free
    }


def cut_by_hand(
    structure: Structure, shapes: Mapping[str, tuple[int, ...]], removed: Mapping[str, Integers]
) -> int:
    """Parameters left, by cutting real arrays: the second route to the exact count."""
    masks = {name: np.ones(shape, bool) for name, shape in shapes.items()}
    for group in structure.groups:
        for part in group.members:
            gone = part.indices[removed.get(group.name, np.empty(0, np.int64))].ravel()
            np.moveaxis(masks[part.parameter], part.dim, 0)[gone] = False
    return sum(int(mask.sum()) for mask in masks.values())


@some.composite
def problems(
    draw: some.DrawFn,
) -> Problem:
    widths = draw(some.lists(some.integers(1, 20), min_size=2, max_size=5))
    structure, shapes = chain(*widths)
    numbers = some.integers(0, 5).map(float)  # with ties
    scores: dict[str, NDArray[np.float64]] = {
        group.name: np.array(
            draw(some.lists(numbers, min_size=group.channels, max_size=group.channels))
        )
        for group in structure.groups
    }
    options = PruneOptions(
        ratio=draw(some.sampled_from((0.01, 0.25, 0.5, 0.75, 0.99))),
        of=draw(some.sampled_from(("parameters", "macs", "channels"))),
        scope=draw(some.sampled_from(("global", "layer", "isomorphic"))),
        align=draw(some.sampled_from(("1", "2", "8"))),
        max_ratio=draw(some.sampled_from((0.3, 0.9, 0.99))),
    )
    return structure, shapes, scores, options


def solve(
    problem: Problem,
) -> Selection:
    structure, shapes, scores, options = problem
    macs = {name: 7.0 * prod(shape) * (n + 1) for n, (name, shape) in enumerate(shapes.items())}
    return select(structure, scores, options, shapes=shapes, macs=macs)


@given(problems())
def test_every_group_keeps_what_it_must(problem: Problem) -> None:
    structure, _, _, options = problem
    selection = solve(problem)
    step = options.step
    assert step is not None

    for group in structure.groups:
        kept = kept_of(structure, selection)[group.name]
        assert kept >= 1
        assert group.channels - kept <= options.max_ratio * group.channels + 1e-9
        assert kept == group.channels or kept % step == 0


@given(problems())
def test_removed_channels_are_the_least_important_of_their_group(problem: Problem) -> None:
    structure, _, scores, _ = problem
    selection = solve(problem)

    for group in structure.groups:
        gone = selection.removed.get(group.name, np.empty(0, np.int64))
        stays = np.setdiff1d(np.arange(group.channels), gone)
        assert np.array_equal(gone, np.unique(gone))
        assert not len(gone) or scores[group.name][gone].max() <= scores[group.name][stays].min()


@given(problems())
def test_the_counts_are_those_of_arrays_that_are_really_cut(problem: Problem) -> None:
    structure, shapes, _, _ = problem
    selection = solve(problem)

    assert selection.after.parameters == cut_by_hand(structure, shapes, selection.removed)
    assert selection.before.parameters == cut_by_hand(structure, shapes, {})
    assert selection.before.channels == sum(group.channels for group in structure.groups)


@given(problems())
def test_the_aim_is_met_and_no_group_could_keep_a_step_more(problem: Problem) -> None:
    structure, shapes, _, options = problem
    selection = solve(problem)
    sizes = footprint(structure.groups, shapes)
    macs = {name: 7.0 * prod(shape) * (n + 1) for n, (name, shape) in enumerate(shapes.items())}

    def left(kept: Kept) -> float:
        if options.of == "channels":
            return sum(kept.values())
        return sizes.macs(kept, macs) if options.of == "macs" else sizes.parameters(kept)

    kept = kept_of(structure, selection)
    whole = left({group.name: group.channels for group in structure.groups})
    assert selection.reached == pytest.approx(1 - left(kept) / whole)
    step = options.step or 1
    for group in structure.groups:
        rungs = [
            n
            for n in range(1, group.channels + 1)
            if (n % step == 0 or n == group.channels)
            and group.channels - n <= options.max_ratio * group.channels + 1e-9
        ]
        if selection.met:
            more = [n for n in rungs if n > kept[group.name]]
            assert not more or 1 - left(kept | {group.name: more[0]}) / whole < options.ratio
        else:
            assert kept[group.name] == min(rungs)  # the closest to the aim is all that may go


@given(problems(), some.floats(0.01, 0.99))
def test_equal_input_gives_equal_output(problem: Problem, factor: float) -> None:
    structure, shapes, scores, options = problem
    larger: dict[str, NDArray[np.float64]] = {
        name: values * factor for name, values in scores.items()
    }
    first, second = solve(problem), solve((structure, shapes, larger, options))

    assert first.removed.keys() == second.removed.keys()
    for name, channels in first.removed.items():
        np.testing.assert_array_equal(channels, second.removed[name])


def test_a_ratio_of_parameters_is_exact_where_rows_and_columns_meet() -> None:
    structure, shapes = chain(8, 8, 10, kernel=1)  # 24 + 64 + 80 parameters
    scores: dict[str, NDArray[np.float64]] = {name: np.arange(8.0) for name in ("conv0", "conv1")}
    options = PruneOptions(ratio=0.5, of="parameters", align="1", scope="layer")
    selection = select(structure, scores, options, shapes=shapes)

    # 5 of 8 in both: 15 + 25 + 50 = 90 of 168 left; 4 and 5: 12 + 20 + 50 = 82; the aim is 84.
    assert selection.after.parameters == 82
    assert kept_of(structure, selection) == {"conv0": 4, "conv1": 5}
    assert selection.met


def test_global_competes_over_the_network_and_layer_within_each_group() -> None:
    structure, shapes = chain(4, 4, 10)
    scores: dict[str, NDArray[np.float64]] = {"conv0": np.full(4, 1.0), "conv1": np.full(4, 2.0)}
    options = PruneOptions(ratio=0.5, of="channels", align="1", max_ratio=0.99)
    everywhere = select(structure, scores, options, shapes=shapes)
    within = select(structure, scores, replace(options, scope="layer"), shapes=shapes)

    assert kept_of(structure, everywhere) == {"conv0": 1, "conv1": 3}  # one always stays
    assert kept_of(structure, within) == {"conv0": 2, "conv1": 2}


def test_isomorphic_groups_compete_with_their_like_only() -> None:
    first, shapes = chain(4, 4, 4, 10)
    bias = {"scale": (6,), "fc.weight": (6, 3), "out.weight": (2, 6)}
    other = Group(
        "fc",
        6,
        (
            member("fc.weight", 0, 6, Role.WRITES),
            member("scale", 0, 6, Role.SCALES),
            member("out.weight", 1, 6, Role.READS),
        ),
    )
    structure = Structure((*first.groups, other))
    scores: dict[str, NDArray[np.float64]] = {
        "conv0": np.full(4, 1.0),
        "conv1": np.full(4, 5.0),
        "conv2": np.full(4, 5.0),
        "fc": np.full(6, 1000.0),
    }
    options = PruneOptions(ratio=0.3, of="channels", align="1", scope="isomorphic", max_ratio=0.99)
    selection = select(structure, scores, options, shapes=shapes | bias)

    # 18 channels, 6 go: a third of the 12 alike, from the least important, and of the 6 others.
    assert kept_of(structure, selection) == {"conv0": 1, "conv1": 3, "conv2": 4, "fc": 4}


def test_a_head_is_aligned_in_indices_not_in_channels() -> None:
    heads = Group(
        "attention",
        12,
        (
            member("v.weight", 0, 12, Role.WRITES, unit=4),
            member("o.weight", 1, 12, Role.READS, unit=4),
        ),
        unit=4,
    )
    shapes = {"v.weight": (48, 8), "o.weight": (8, 48)}
    options = PruneOptions(ratio=0.4, of="parameters", align="16")
    selection = select(Structure((heads,)), {"attention": np.arange(12.0)}, options, shapes=shapes)

    assert list(selection.removed["attention"]) == [0, 1, 2, 3, 4, 5, 6, 7]  # 4 heads: 16 indices
    assert selection.after.parameters == 2 * 16 * 8


def test_measured_steps_may_be_a_list_and_differ_by_group() -> None:
    structure, shapes = chain(32, 32, 10)
    scores: dict[str, NDArray[np.float64]] = {name: np.arange(32.0) for name in ("conv0", "conv1")}
    options = PruneOptions(ratio=0.4, of="channels", scope="layer")
    steps: Steps = {"conv0": (4, 16, 24), "conv1": 8}
    selection = select(structure, scores, options, shapes=shapes, steps=steps)

    assert kept_of(structure, selection) == {"conv0": 16, "conv1": 16}


def test_rounding_is_to_the_nearest_step() -> None:
    structure, shapes = chain(16, 32, 10)
    first_ten_of_conv1 = np.where(np.arange(32) < 10, 0.0, 2.0)
    scores = {"conv0": np.ones(16), "conv1": first_ten_of_conv1}
    options = PruneOptions(ratio=8 / 48, of="channels")
    selection = select(structure, scores, options, shapes=shapes, steps={"conv0": 4, "conv1": 16})

    # 23 of 32 are nearer to 16: conv1 meets the aim before anything of conv0 goes.
    assert kept_of(structure, selection) == {"conv0": 16, "conv1": 16}


def test_groups_that_share_a_dimension_are_counted_together() -> None:
    shapes = {"a.weight": (4, 3), "b.weight": (6, 3), "c.weight": (5, 10)}
    structure = Structure((
        Group("a", 4, (
            member("a.weight", 0, 4, Role.WRITES), member("c.weight", 1, 4, Role.READS),
        )),
        Group("b", 6, (
            member("b.weight", 0, 6, Role.WRITES), member("c.weight", 1, 6, Role.READS, first=4),
        )),
    ))  # fmt: skip
    sizes = footprint(structure.groups, shapes)

    assert sizes.shapes({"a": 1, "b": 4}) == {
        "a.weight": (1, 3), "b.weight": (4, 3), "c.weight": (5, 5),
    }  # fmt: skip
    assert sizes.parameters({"a": 1, "b": 4}) == 3 + 12 + 25


def test_an_index_that_is_named_twice_is_counted_once() -> None:
    twice = member("w", 0, 4, Role.WRITES)
    sizes = footprint((Group("g", 4, (twice, twice)),), {"w": (4, 2), "scale": ()})

    assert sizes.parameters({"g": 3}) == 3 * 2 + 1


def test_an_aim_beyond_the_limits_is_reported_and_the_closest_is_kept() -> None:
    structure, shapes = chain(10, 10)
    options = PruneOptions(ratio=0.9, of="channels", align="1", max_ratio=0.5)
    selection = select(structure, {"conv0": np.arange(10.0)}, options, shapes=shapes)

    assert not selection.met
    assert selection.reached == pytest.approx(0.5)
    assert list(selection.removed["conv0"]) == [0, 1, 2, 3, 4]


def test_a_floor_counts_from_before_the_first_round() -> None:
    structure, shapes = chain(10, 10)
    options = PruneOptions(ratio=0.9, of="channels", align="1")
    selection = select(
        structure, {"conv0": np.arange(10.0)}, options, shapes=shapes, least={"conv0": 7}
    )

    assert kept_of(structure, selection) == {"conv0": 7}


def test_a_cost_of_ones_own_takes_the_place_of_the_count() -> None:
    structure, shapes = chain(16, 16, 10)
    scores: dict[str, NDArray[np.float64]] = {"conv0": np.arange(16.0), "conv1": np.arange(16.0)}

    def steps_of_eight(kept: Kept) -> float:
        return sum(-(-kept.get(name, 16) // 8) for name in ("conv0", "conv1"))

    options = PruneOptions(ratio=0.25, align="1")
    selection = select(structure, scores, options, shapes=shapes, cost=steps_of_eight)

    assert sorted(kept_of(structure, selection).values()) == [8, 16]  # never 9 to 15: no gain
    assert selection.reached == pytest.approx(0.25)


def test_groups_without_a_score_stay_whole_and_are_named() -> None:
    structure, shapes = chain(8, 8, 10)
    options = PruneOptions(ratio=0.3, of="channels", align="1")
    selection = select(structure, {"conv1": np.arange(8.0)}, options, shapes=shapes)

    assert selection.unscored == ("conv0",)
    assert list(selection.removed) == ["conv1"]
    with pytest.raises(BadInputError, match="'l1' says nothing about any of the 2 groups"):
        select(structure, {}, options, shapes=shapes)


def test_macs_that_nobody_counted_are_asked_for() -> None:
    structure, shapes = chain(8, 10)
    with pytest.raises(BadInputError, match='not known; use of = "parameters"'):
        select(structure, {"conv0": np.arange(8.0)}, PruneOptions(), shapes=shapes)


STREAM = Structure((
    Group("layer1.0.conv1", 4, (
        member("layer1.0.conv1.weight", 0, 4, Role.WRITES),
        member("layer1.0.conv2.weight", 1, 4, Role.READS),
    )),
    Group("layer2.0.conv1", 4, (
        member("layer2.0.conv1.weight", 0, 4, Role.WRITES),
        member("layer2.0.norm.weight", 0, 4, Role.SCALES),
        member("head.weight", 1, 4, Role.READS),
    ), exactness=Exactness.RENORMALISED),
    Group("layer3.conv", 4, (), locked="it is an output"),
))  # fmt: skip


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), ["layer1.0.conv1", "layer2.0.conv1"]),
        (("layer1",), ["layer2.0.conv1"]),
        (("layer1.*",), ["layer2.0.conv1"]),
        (("*.conv2",), ["layer1.0.conv1", "layer2.0.conv1"]),  # reads: its input may shrink
        (("layer2.0.norm",), ["layer1.0.conv1"]),
        (("layer2.0.norm.weight",), ["layer1.0.conv1"]),
        (("head", "layer3*"), ["layer1.0.conv1", "layer2.0.conv1"]),
    ],
)
def test_patterns_name_layers_whose_outputs_stay(exclude: tuple[str, ...], left: list[str]) -> None:
    assert [group.name for group in candidates(STREAM, exclude)] == left


@pytest.mark.parametrize(
    ("structure", "exclude", "least", "message"),
    [
        (STREAM, ("layer2.0.conv3",), "approximate", "matches no layer; did you mean 'layer2.0.co"),
        (STREAM, ("stem.*",), "approximate", r"exclude 'stem\.\*' matches no layer"),
        (STREAM, ("layer*",), "approximate", "nothing can be pruned: none of the 2 groups"),
        (STREAM, ("layer1",), "exact", 'is left by exclude and exactness = "exact"'),
        (Structure(()), (), "exact", "pruned: the network has no layer with channels of its own"),
        (
            Structure(STREAM.groups[2:]), (), "exact",
            "pruned: all 1 groups are locked: layer3.conv it is an output",
        ),
    ],
)  # fmt: skip
def test_what_leaves_nothing_to_prune_is_told_in_one_line(
    structure: Structure, exclude: tuple[str, ...], least: str, message: str
) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        candidates(structure, exclude, Exactness(least))

    assert "\n" not in str(caught.value)


def test_only_groups_that_are_exact_enough_are_cut() -> None:
    assert [group.name for group in candidates(STREAM, least=Exactness.EXACT)] == ["layer1.0.conv1"]
