"""How much blocks are needed: against counting by hand on the user's own module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.compress.prune.choice.evidence import Evidence, class_loss
from deploykit.compress.prune.depth.blocks import blocks_of
from deploykit.compress.prune.depth.choose_blocks import choose_blocks, macs_left, parameters_left
from deploykit.compress.prune.depth.score_blocks import BlockScorer, score_blocks, wider
from deploykit.compress.prune.graph.program import program_of
from deploykit.core.errors import BadInputError
from deploykit.core.types import Model
from deploykit.load.arrays import ArrayData
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from deploykit.compress.prune.graph.program import Program

SAMPLES = 24


class Part(nn.Module):
    """x + scale * tanh(fc(x)), of some width inside."""

    def __init__(self, scale: float, inside: int) -> None:
        super().__init__()
        self.up = nn.Linear(6, inside)
        self.down = nn.Linear(inside, 6)
        self.scale = nn.Parameter(torch.full((6,), scale))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.down(self.up(x).tanh())
        return x.relu()


class Net(nn.Module):
    """Four blocks; the second adds least."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1.0, 6), (0.01, 8), (0.5, 12), (2.0, 6))
        self.parts = nn.ModuleList(Part(scale, inside) for scale, inside in sizes)
        self.head = nn.Linear(6, 3)
        self.skipped: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        for number, part in enumerate(self.parts):
            x = x.relu() if number in self.skipped else part(x)
        out: Tensor = self.head(x)
        return out


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def program(net: Net) -> Program:
    return program_of(Model(net, parse_inputs(["x=N[1..64]x6"])))


@pytest.fixture
def evidence() -> Evidence:
    rng = np.random.default_rng(0)
    data = ArrayData(
        "made-up",
        {"x": rng.standard_normal((SAMPLES, 6)).astype(np.float32)},
        rng.integers(0, 3, SAMPLES),
    )
    return Evidence(data, parse_inputs(["x=N[1..64]x6"]), class_loss, samples=SAMPLES)


def given(evidence: Evidence) -> tuple[Tensor, Tensor]:
    batch = evidence.data.batch(range(SAMPLES))
    assert batch.labels is not None
    return torch.from_numpy(batch.inputs["x"]), torch.from_numpy(batch.labels)


def test_loss_is_what_leaving_the_block_out_costs(
    net: Net, program: Program, evidence: Evidence
) -> None:
    found = score_blocks(program, "loss", evidence=evidence)

    x, labels = given(evidence)
    with torch.no_grad():
        base = nn.functional.cross_entropy(net(x), labels)
        for number in range(4):
            net.skipped = {number}
            lost = float(nn.functional.cross_entropy(net(x), labels) - base)
            assert found[f"parts.{number}"] == pytest.approx(lost, abs=1e-6)


def test_loss_after_other_blocks_are_gone(net: Net, program: Program, evidence: Evidence) -> None:
    scorer = BlockScorer(program, blocks_of(program), "loss", evidence)
    found = scorer.scores(["parts.1", "parts.3"])

    x, labels = given(evidence)
    with torch.no_grad():
        net.skipped = {1, 3}
        base = nn.functional.cross_entropy(net(x), labels)
        net.skipped = {1, 2, 3}
        lost = float(nn.functional.cross_entropy(net(x), labels) - base)
    assert found.keys() == {"parts.0", "parts.2"}
    assert found["parts.2"] == pytest.approx(lost, abs=1e-6)


def test_output_is_how_far_it_moves(net: Net, program: Program, evidence: Evidence) -> None:
    found = score_blocks(program, "output", evidence=evidence)

    x, _ = given(evidence)
    with torch.no_grad():
        whole = net(x).double()
        net.skipped = {2}
        moved = float((net(x).double() - whole).norm() / whole.norm())
    assert found["parts.2"] == pytest.approx(moved, rel=1e-5)


def test_influence_is_one_minus_the_cosine(net: Net, program: Program, evidence: Evidence) -> None:
    found = score_blocks(program, "influence", evidence=evidence)

    x, _ = given(evidence)
    with torch.no_grad():
        before = net.parts[0](x)
        after = net.parts[1](before)
        cosine = nn.functional.cosine_similarity(before.double(), after.double())
    assert found["parts.1"] == pytest.approx(float((1 - cosine).mean()), abs=1e-7)
    assert min(found, key=lambda name: found[name]) == "parts.1"


def test_magnitude_sees_the_layer_scale(program: Program) -> None:
    found = score_blocks(program, "magnitude")

    assert min(found, key=lambda name: found[name]) == "parts.1"
    assert np.mean(list(found.values())) == pytest.approx(1)


@pytest.mark.parametrize("criterion", ["magnitude", "influence", "output", "loss"])
def test_scores_are_the_same_twice_and_nothing_changes(
    criterion: str, net: Net, program: Program, evidence: Evidence
) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    first = score_blocks(program, criterion, evidence=evidence)

    assert score_blocks(program, criterion, evidence=evidence) == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_batches_are_as_wide_as_the_network_takes(evidence: Evidence) -> None:
    narrow = Evidence(evidence.data, parse_inputs(["x=N[1..7]x6"]), samples=20)

    assert wider(evidence).batch == SAMPLES
    assert wider(narrow).batch == 5


@pytest.mark.parametrize("criterion", ["magnitude", "influence", "loss"])
def test_the_least_needed_block_goes_first(
    criterion: str, program: Program, evidence: Evidence
) -> None:
    scorer = BlockScorer(program, blocks_of(program), criterion, evidence)

    choice = choose_blocks(scorer, count=2)

    first = scorer.scores()
    assert choice.removed[0] == min(first, key=lambda name: first[name])
    then = scorer.scores(choice.removed[:1])
    assert choice.removed[1] == min(then, key=lambda name: then[name])
    assert [v.name for v in choice.verdicts if v.removed] == sorted(choice.removed)
    assert choice.met


@pytest.mark.parametrize("left", [macs_left, parameters_left])
def test_a_share_is_reached_and_the_last_block_was_needed_for_it(
    left: object, program: Program, evidence: Evidence
) -> None:
    assert callable(left)
    blocks = blocks_of(program)
    count = left(program, blocks)
    scorer = BlockScorer(program, blocks, "loss", evidence)

    choice = choose_blocks(scorer, share=0.4, left=count)

    assert choice.left == count(choice.removed) <= 0.6
    assert count(choice.removed[:-1]) > 0.6


def test_a_share_that_cannot_be_reached_takes_all_and_says_so(program: Program) -> None:
    blocks = blocks_of(program)
    scorer = BlockScorer(program, blocks, "magnitude")

    choice = choose_blocks(scorer, share=0.999, left=macs_left(program, blocks))

    assert len(choice.removed) == 4
    assert not choice.met


def test_excluded_blocks_stay(program: Program) -> None:
    scorer = BlockScorer(program, blocks_of(program), "magnitude")

    choice = choose_blocks(scorer, count=1, exclude=("parts.1.up", "*.3"))

    assert choice.removed == ("parts.2",)
    assert {v.name: v.why for v in choice.verdicts if v.why} == {
        "parts.1": "excluded by 'parts.1.up'",
        "parts.3": "excluded by '*.3'",
    }


def test_more_blocks_than_there_are(program: Program) -> None:
    scorer = BlockScorer(program, blocks_of(program), "magnitude")

    with pytest.raises(BadInputError, match=r"^5 residual blocks cannot go: .* ask for at most 3$"):
        choose_blocks(scorer, count=5, exclude=("parts.1",))


def test_what_cannot_be_scored_is_told(program: Program, evidence: Evidence) -> None:
    with pytest.raises(BadInputError, match=r"^depth_by 'lose' is unknown; did you mean 'loss'\?$"):
        score_blocks(program, "lose")
    with pytest.raises(BadInputError, match=r"^depth_by 'output' looks at data; give some, or"):
        score_blocks(program, "output")
    unlabelled = ArrayData("plain", {"x": np.zeros((4, 6), np.float32)}, None)
    with pytest.raises(BadInputError, match=r'^plain has no labels, which depth_by "loss" needs'):
        score_blocks(program, "loss", evidence=Evidence(unlabelled, evidence.inputs, class_loss))
