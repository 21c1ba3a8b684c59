"""Constants are computed once, and what is written to is not mistaken for one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from deploykit.compress.prune.graph.program import Program, program_of
from deploykit.core.types import Model
from deploykit.load.inputs import parse_inputs

INPUTS = parse_inputs(["x=N[1..8]x4x6"])


class Masked(nn.Module):
    """A mask written slice by slice, as swin makes it; positions; and a count that goes on."""

    table: torch.Tensor
    steps: torch.Tensor
    scale: torch.Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("table", torch.arange(24.0).view(4, 6))
        self.register_buffer("steps", torch.arange(24.0).view(4, 6), persistent=False)
        self.register_buffer("count", torch.zeros(4, 6))
        self.scale = nn.Parameter(torch.ones(4, 6))

    def forward(self, x: torch.Tensor) -> Any:
        if self.kind == "mask":
            mask = x.new_zeros((4, 6))
            mask[:2] = 1
            mask[:, 3:] += self.steps[:, 3:] * 2
            return x + mask
        if self.kind == "positions":
            return x * torch.arange(6).float().sin() + self.table.flip(0)
        if self.kind == "parameter":
            return x + self.scale * 2
        if self.kind == "data":
            mask = torch.zeros(4, 6)
            mask[:2] = x[0, :2]
            return x + mask
        if self.kind == "random":
            return x + torch.rand(4, 6)
        if self.kind == "between":  # read before it is written to
            mask = torch.zeros(4, 6)
            before = x + mask
            mask += 1
            return before * mask
        return x + self.table + self.table.t().reshape(4, 6)


def captured(kind: str) -> tuple[nn.Module, Program]:
    module = Masked(kind).eval()
    return module, program_of(Model(module, INPUTS))


@pytest.mark.parametrize("kind", ["mask", "positions", "parameter", "data", "between", "twice"])
def test_the_network_computes_the_same(kind: str) -> None:
    module, program = captured(kind)
    program.module.recompile()

    for batch in (1, 3):
        x = torch.rand(batch, 4, 6)
        assert torch.equal(program.module(x), module(x))
        assert torch.equal(program.module(x), module(x)), "the second call is as the first"


@pytest.mark.parametrize(
    ("kind", "folded"),
    [("mask", 1), ("positions", 1), ("parameter", 0), ("data", 0), ("random", 0), ("twice", 0)],
)
def test_what_depends_on_nothing_becomes_a_buffer(kind: str, folded: int) -> None:
    _, program = captured(kind)

    assert len([name for name in program.tensors if name.startswith("_constant")]) == folded
    if kind == "mask":
        assert [node.op for node in program.module.graph.nodes].count("call_function") == 1


def test_a_saved_buffer_keeps_its_name_and_may_be_loaded_anew() -> None:
    module, program = captured("twice")
    x = torch.rand(2, 4, 6)
    program.module.recompile()
    assert "table" in program.tensors

    with torch.no_grad():
        module.state_dict()["table"].add_(1)

    assert torch.equal(program.module(x), module(x))


def test_the_networks_own_buffers_are_not_written_to() -> None:
    module = Masked("mask").eval()
    before = dict(module.named_buffers())["steps"].clone()

    program_of(Model(module, INPUTS))

    assert torch.equal(dict(module.named_buffers())["steps"], before)
