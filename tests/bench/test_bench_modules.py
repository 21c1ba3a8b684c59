"""PyTorch networks module by module, against PyTorch's own counts and formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploykit.bench.layers import totals
from deploykit.bench.modules import modules_of, profile_modules
from deploykit.core.types import Dim, Model, TensorSpec


class _Shared(nn.Module):
    """A block that runs twice, a product of its own, and a head tied to the block's weights."""

    def __init__(self) -> None:
        super().__init__()
        linear = nn.Linear(6, 6)
        self.block = nn.Sequential(linear, nn.ReLU())
        self.head = nn.Linear(6, 6, bias=False)
        self.head.weight = linear.weight
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.block(self.block(x)) * self.scale
        return self.head(hidden @ hidden.transpose(1, 2) @ hidden)  # type: ignore[no-any-return]


def _model(module: nn.Module, *shape: int) -> tuple[Model, dict[str, Any]]:
    spec = TensorSpec("x", "float32", (Dim("N", 1, 8), *shape[1:]))
    return Model(module.eval(), (spec,)), {"x": np.ones(shape, np.float32)}


def test_each_row_is_what_the_module_does_itself() -> None:
    rows = {row.name: row for row in modules_of(*_model(_Shared(), 2, 5, 6))}

    assert list(rows) == ["block.0", "block.1", "head", "_Shared"]
    linear = 2 * 5 * 6 * 6
    assert rows["block.0"].macs == 2 * linear, "it runs twice"
    assert rows["block.0"].parameters == 36 + 6
    assert rows["block.0"].outputs == ((2, 5, 6),)
    assert rows["block.0"].output_bytes == 4 * 2 * 5 * 6
    assert (rows["head"].macs, rows["head"].parameters) == (linear, 0), "its weights are tied"
    assert rows["_Shared"].macs == 2 * (5 * 6 * 5) * 2, "two products outside any submodule"
    assert rows["_Shared"].parameters == 6


def test_totals_agree_with_pytorch() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    module = _Shared()
    model, feeds = _model(module, 2, 5, 6)
    with FlopCounterMode(display=False) as counter:
        module(torch.ones(2, 5, 6))

    found = totals(modules_of(model, feeds))

    assert found.macs == counter.get_total_flops() // 2
    assert found.parameters == sum(p.numel() for p in module.parameters())


def test_recurrent_layers_are_counted_by_their_formula() -> None:
    module = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)

    (row,) = modules_of(*_model(module, 2, 7, 4))

    # Steps x gates x hidden x (input + hidden), both directions; the second layer's input is 12.
    assert row.macs == 14 * 2 * 24 * ((4 + 6) + (12 + 6))
    assert row.outputs[0] == (2, 7, 12)


def test_fused_attention_is_counted_as_its_products() -> None:
    module = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    found = totals(modules_of(*_model(module, 3, 5, 8)))

    # Projections to and from attention, its two products, and the two linear layers.
    by_token = 8 * 24 + 8 * 8 + 2 * 5 * 8 + 2 * 8 * 16
    assert found.macs == 3 * 5 * by_token
    assert found.parameters == sum(p.numel() for p in module.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_network_is_left_as_it_was() -> None:
    module = _Shared()
    model, feeds = _model(module, 2, 5, 6)
    threads = torch.get_num_threads()

    modules_of(model, feeds)
    profile_modules(model, feeds, threads=1)

    assert not any(child._forward_hooks for child in module.modules())
    assert torch.get_num_threads() == threads
    assert all(parameter.grad is None for parameter in module.parameters())


def test_time_by_operator_has_the_operators_that_ran() -> None:
    operators = profile_modules(*_model(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), 2, 6))

    by_op = {operator.op: operator for operator in operators}
    assert by_op["addmm"].nodes == 1
    assert abs(sum(operator.share for operator in operators) - 1) < 1e-9
    times = [operator.time_ns for operator in operators]
    assert times == sorted(times, reverse=True)
