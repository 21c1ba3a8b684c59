"""Plans: what they refuse, where they do not fit, and two in turn as one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

from deploykit.compress.prune.analysis.analyse import analyse
from deploykit.compress.prune.cutting.cut import compose, cut, plan_of
from deploykit.compress.prune.cutting.oracle import agreement
from deploykit.compress.prune.graph.program import Program, program_of
from deploykit.compress.prune.plan import PLAN, Cut, Plan, without
from deploykit.core.errors import BadInputError
from deploykit.core.records import decode, encode
from deploykit.core.types import Model
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from deploykit.compress.prune.structure import Structure

INPUTS = parse_inputs(["x=N[1..8]x3x8x8"])


class Shuffled(nn.Module):
    """A residual sum, a concatenation, a shuffle, a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 1, groups=2)
        self.out = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.a(x)).relu()
        y = torch.cat([y, y + self.b(y)], 1)
        y = y.view(-1, 2, 8, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8)
        made: torch.Tensor = self.out(self.c(y).mean((2, 3)))
        return made


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return program_of(Model(Shuffled().eval(), INPUTS))


@pytest.fixture(scope="module")
def structure(program: Program) -> Structure:
    return analyse(program)


def sizes(program: Program) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in program.tensors.items()}


@pytest.fixture(scope="module")
def plan(program: Program, structure: Structure) -> Plan:
    removed = {group.name: np.arange(0, group.channels, 2) for group in structure.free}
    return plan_of(structure, removed, sizes(program))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"kept": ()}, "the plan keeps nothing of conv.weight, dimension 0"),
        ({"kept": (1, 1)}, "the plan's indices of conv.weight, dimension 0 are not ascending"),
        ({"kept": (0, 8)}, "the plan keeps index 8 of conv.weight, dimension 0, which has 8"),
        ({"kept": (-1, 2)}, "the plan keeps index -1 of conv.weight, dimension 0, which has 8"),
    ],
)
def test_a_cut_that_cannot_be(part: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(BadInputError) as raised:
        Cut("conv.weight", 0, 8, **part)

    assert str(raised.value) == says


def test_a_plan_is_the_same_after_json(plan: Plan) -> None:
    assert decode(encode(plan, PLAN), Plan, PLAN, "plan.json") == plan


def test_heads_that_no_analysis_knows(plan: Plan) -> None:
    text = encode(plan, PLAN).replace(b'"within"', b'"half"')

    with pytest.raises(BadInputError, match="the plan has heads 'half'; known are within and whol"):
        decode(text, Plan, PLAN, "plan.json")


def test_groups_that_are_not_there(program: Program, structure: Structure) -> None:
    known = sizes(program)
    for removed, says in (
        ({"aa": np.array([0])}, "there is no group 'aa'; did you mean"),
        ({"a": np.array([4])}, "a has no channel 4, only 0 to 3"),  # of two indices each
        ({"out": np.array([0])}, "out cannot be cut: it is an output of the network"),
        ({"a": np.arange(4)}, "the plan keeps nothing of a.bias, dimension 0"),
    ):
        with pytest.raises(BadInputError) as raised:
            plan_of(structure, removed, known)
        assert str(raised.value).startswith(says)


def test_planted_mistakes_are_refused_with_their_place(program: Program, plan: Plan) -> None:
    """Every cut left out, and every cut shifted by one index: each is named, none goes through."""
    assert agreement(program, plan, INPUTS).exact
    for number, part in enumerate(plan.cuts):
        rest = plan.cuts[:number] + plan.cuts[number + 1 :]
        gone = sorted(set(range(part.size)) - set(part.kept))
        other = (set(part.kept) | {gone[0]}) - {part.kept[0]}
        wrong = replace(part, kept=tuple(sorted(other)))
        fewer = replace(part, kept=part.kept[1:]) if len(part.kept) > 1 else wrong
        for cuts in (rest, (*rest, wrong), (*rest, fewer)):
            with pytest.raises(BadInputError, match="the plan ") as raised:
                cut(program, Plan(cuts))
            assert "dimension" in str(raised.value)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Cut("d.weight", 0, 8, (0, 1)), "the plan cuts d.weight, which the network does not have"),
        (Cut("a.weight", 0, 9, (0, 1)), "the plan cuts dimension 0 of a.weight from 9 to 2, and"),
        (Cut("a.weight", 5, 8, (0, 1)), "the plan cuts dimension 5 of a.weight from 8 to 2, and"),
        (Cut("a.weight", 2, 3, (0, 1)), "the plan cuts a.weight, dimension 2, which is a kernel's"),
        (Cut("out.weight", 0, 5, (0, 1)), "the plan cuts out.weight, dimension 0, which is an ou"),
    ],
)
def test_a_plan_of_another_network(program: Program, part: Cut, says: str) -> None:
    with pytest.raises(BadInputError) as raised:
        cut(program, Plan((part,)))

    assert str(raised.value).startswith(says)


def test_a_plan_without_some_of_its_groups(
    program: Program, structure: Structure, plan: Plan
) -> None:
    removed = {group.name: np.arange(0, group.channels, 2) for group in structure.free}
    first = structure.free[0].name
    rest = {name: channels for name, channels in removed.items() if name != first}

    assert without(plan, [structure.free[0]]) == plan_of(structure, rest, sizes(program))
    assert without(plan, structure.free) == Plan()
    assert without(plan, []) == plan


def test_an_empty_plan_is_the_network(program: Program) -> None:
    image = torch.rand(2, 3, 8, 8)

    assert torch.equal(cut(program, Plan())(image), program.module.eval()(image))


@settings(max_examples=15)
@given(first=some.sets(some.integers(0, 7), max_size=6), share=some.floats(0, 0.9))
def test_two_cuts_in_turn_are_one(first: set[int], share: float) -> None:
    torch.manual_seed(0)
    once = program_of(Model(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).eval(), INPUTS))
    one = plan_of(analyse(once), {"0": np.array(sorted(first), dtype=np.int64)}, sizes(once))
    again = program_of(Model(cut(once, one), INPUTS))
    left = 8 - len(first)
    second = {"0": np.arange(int(left * share))}
    two = plan_of(analyse(again), second, sizes(again))

    both = cut(once, compose(one, two)).state_dict()

    in_turn = cut(again, two).state_dict()
    assert both.keys() == in_turn.keys()
    assert all(torch.equal(both[name], in_turn[name]) for name in both)
