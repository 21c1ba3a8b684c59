"""The oracle says no to a wrong cut, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.compress.prune.analysis.analyse import analyse
from deploykit.compress.prune.cutting import oracle
from deploykit.compress.prune.cutting.cut import build, plan_of
from deploykit.compress.prune.cutting.oracle import agreement, in_float64
from deploykit.compress.prune.graph.program import Program, program_of
from deploykit.core.types import Model
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from deploykit.compress.prune.plan import Plan

INPUTS = parse_inputs(["x=N[1..8]x3x8x8"])


def pruned(module: nn.Module, channels: int = 3) -> tuple[Program, Plan]:
    """The first group loses its first channels."""
    torch.manual_seed(0)
    program = program_of(Model(module.eval(), INPUTS))
    structure = analyse(program)
    sizes = {name: tuple(tensor.shape) for name, tensor in program.tensors.items()}
    removed = {structure.free[0].name: np.arange(channels)}
    return program, plan_of(structure, removed, sizes)


def network(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(288, 5)
    )


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(8), nn.GroupNorm(1, 8), nn.GroupNorm(2, 8), nn.LayerNorm((8, 6, 6))]
)
def test_right_cuts_agree_far_below_the_limit(norm: nn.Module) -> None:
    program, plan = pruned(network(norm), 2)

    assert agreement(program, plan, INPUTS).difference < 1e-13


def swapped(module: GraphModule, name: str, dim: int) -> None:
    """Two indices of a cut parameter change places: right in shape, wrong in what is where."""
    tensor = module.get_parameter(name)
    order = torch.arange(tensor.shape[dim])
    order[[0, 1]] = order[[1, 0]]
    with torch.no_grad():
        tensor.copy_(tensor.index_select(dim, order))


@pytest.mark.parametrize(
    ("name", "dim"),
    [("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("3.weight", 1),
     ("3.weight", 0), ("5.weight", 1)],
)  # fmt: skip
def test_one_index_off_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, dim: int) -> None:
    program, plan = pruned(network(nn.BatchNorm2d(8)))

    def wrong(*args: Any) -> GraphModule:
        module = build(*args)
        swapped(module, name, dim)
        return module

    monkeypatch.setattr(oracle, "build", wrong)

    assert agreement(program, plan, INPUTS).difference > 1e-4


def test_running_statistics_of_other_channels_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh network all means are 0 and all variances 1: they are made random first."""
    program, plan = pruned(network(nn.BatchNorm2d(8)))

    def wrong(*args: Any) -> GraphModule:
        module = build(*args)
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.copy_(buffer.roll(1))
        return module

    monkeypatch.setattr(oracle, "build", wrong)

    assert not agreement(program, plan, INPUTS).exact


def test_not_a_number_is_no_agreement() -> None:
    assert not oracle.Agreement(float("nan")).exact
    assert not oracle.Agreement(oracle.LIMIT).exact
    assert oracle.Agreement(0.0).exact


def test_nothing_that_was_given_changes() -> None:
    program, plan = pruned(network(nn.BatchNorm2d(8)))
    before = {name: tensor.clone() for name, tensor in program.tensors.items()}
    text = program.module.graph.python_code("self").src

    agreement(program, plan, INPUTS)

    assert all(torch.equal(program.tensors[name], before[name]) for name in before)
    assert program.module.graph.python_code("self").src == text


def test_what_is_random_keeps_its_sign() -> None:
    """What was positive stays so (variances, temperatures); what was zero becomes something."""

    class Signs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
            self.spread: torch.Tensor
            self.register_buffer("spread", torch.full((8,), 3.0))

        def forward(self, x: torch.Tensor) -> Any:
            return x.mean((1, 2, 3))[:, None] * self.scale.log() / self.spread.sqrt() + self.shift

    doubled = in_float64(program_of(Model(Signs().eval(), INPUTS)), seed=0).tensors

    assert doubled["scale"].dtype == torch.float64
    assert bool((doubled["scale"] > 0).all())
    assert bool((doubled["spread"] > 0).all())
    assert len(set(doubled["shift"].tolist())) == 8
    assert len(set(doubled["scale"].tolist())) == 8
