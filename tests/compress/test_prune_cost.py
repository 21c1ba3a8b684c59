"""Multiply-accumulates by hand: of every kind of layer, also where the weight is made first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from deploykit.compress.prune.analysis.cost import macs_by_node, macs_of
from deploykit.compress.prune.graph.program import program_of
from deploykit.core.types import Model
from deploykit.load.inputs import parse_inputs
from tests.compress.conftest import Net

if TYPE_CHECKING:
    from deploykit.compress.prune.graph.program import Program

IMAGE = "x=N[1..4]x4x6x6"
TOKENS = "x=N[1..4]x5x8"
normed = nn.utils.parametrizations


def program(run: Any, given: str, **parts: Any) -> Program:
    return program_of(Model(Net(run, parts).eval(), parse_inputs([given])))


@pytest.mark.parametrize(
    ("run", "given", "parts", "macs"),
    [
        pytest.param(lambda m, x: m.a(x), IMAGE, {"a": nn.Conv2d(4, 8, 3, groups=2)},
                     {"a.weight": 8 * 4 * 4 * 2 * 9}, id="grouped"),
        pytest.param(lambda m, x: m.a(x), IMAGE, {"a": nn.ConvTranspose2d(4, 8, 2, 2, groups=2)},
                     {"a.weight": 36 * 4 * 4 * 4}, id="transposed"),
        pytest.param(lambda m, x: m.a(x), IMAGE, {"a": normed.weight_norm(nn.Conv2d(4, 8, 1))},
                     {"a.parametrizations.weight.original1": 36 * 4 * 8}, id="weight-norm"),
        pytest.param(lambda m, x: m.a(x), IMAGE, {"a": normed.spectral_norm(nn.Conv2d(4, 8, 3))},
                     {"a.parametrizations.weight.original": 16 * 4 * 8 * 9}, id="spectral-norm"),
        pytest.param(lambda m, x: m.a(x)[0], TOKENS, {"a": nn.LSTM(8, 6, batch_first=True)},
                     {"a.weight_ih_l0": 5 * 24 * 8, "a.weight_hh_l0": 5 * 24 * 6}, id="lstm"),
        pytest.param(lambda m, x: m.a(x[:, 0]), TOKENS, {"a": nn.GRUCell(8, 6)},
                     {"a.weight_ih": 18 * 8, "a.weight_hh": 18 * 6}, id="gru-cell"),
        pytest.param(lambda m, x: torch.einsum("btd,edh->bteh", x, m.w), TOKENS,
                     {"w": nn.Parameter(torch.rand(3, 8, 7))}, {"w": 5 * 3 * 8 * 7}, id="einsum"),
        pytest.param(lambda m, x: m.w @ x, TOKENS, {"w": nn.Parameter(torch.rand(9, 5))},
                     {"w": 9 * 5 * 8}, id="weight-on-the-left"),
        pytest.param(lambda m, x: m.a(x, x.flip(1), x, need_weights=False)[0], TOKENS,
                     {"a": nn.MultiheadAttention(8, 2, batch_first=True)},
                     {"a.in_proj_weight": 5 * 24 * 8, "a.out_proj.weight": 5 * 8 * 8},
                     id="packed-and-split"),
        # Filters of learnt frequencies over fixed places (SincNet): they shrink with the learnt.
        pytest.param(lambda m, x: functional.conv1d(x, torch.sin(m.hz * m.n)[:, None]),
                     "x=N[1..4]x1x20",
                     {"hz": nn.Parameter(torch.rand(3, 1)), "n": torch.rand(1, 9)},
                     {"hz": 12 * 3 * 9}, id="made-of-a-constant"),
        pytest.param(lambda m, x: (x + m.p) @ (x + m.p).mT, TOKENS,
                     {"p": nn.Parameter(torch.rand(5, 8))}, {}, id="activations-only"),
    ],
)  # fmt: skip
def test_by_the_parameter_that_a_weight_is_made_of(
    run: Any, given: str, parts: dict[str, Any], macs: dict[str, float]
) -> None:
    assert macs_of(program(run, given, **parts)) == macs


def test_a_layer_that_runs_twice_counts_twice() -> None:
    found = program(lambda m, x: m.a(m.a(x)), TOKENS, a=nn.Linear(8, 8))

    assert macs_of(found) == {"a.weight": 2 * 5 * 8 * 8}
    assert list(macs_by_node(found).values()) == [5 * 8 * 8] * 2
