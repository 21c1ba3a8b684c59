"""Fused attention of any number of dimensions is exported, and computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from deploykit.core.types import Model
from deploykit.load.capture import capture
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tests.export.conftest import Export


class Attends(nn.Module):
    """Attention over [.., positions, width], whose leading dimensions are made by a function."""

    def __init__(self, lead: Callable[[Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        self.lead = lead
        self.options = options
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Any:
        """[N, ..]."""
        query, key, value = (self.lead(part) for part in self.qkv(x).chunk(3, dim=-1))
        return scaled_dot_product_attention(query, key, value, **self.options)


def windows(x: Tensor) -> Tensor:
    """[N, 2 windows, 2 heads, 3 positions, 4]."""
    return x.reshape(-1, 2, 3, 2, 4).transpose(2, 3)


@pytest.mark.parametrize(
    ("lead", "options"),
    [
        (windows, {}),
        (windows, {"scale": 0.3}),
        (windows, {"is_causal": True}),
        (windows, {"attn_mask": torch.linspace(-1, 1, 9).reshape(3, 3)}),
        (windows, {"attn_mask": torch.eye(3, dtype=torch.bool)}),
        (lambda x: x, {}),
        (lambda x: x.reshape(-1, 6, 2, 4).transpose(1, 2), {}),
    ],
    ids=["five", "scale", "causal", "mask", "bool-mask", "three", "four"],
)
def test_the_file_computes_what_the_network_does(
    lead: Callable[[Tensor], Tensor], options: dict[str, Any], export: Export
) -> None:
    module = Attends(lead, **options)

    written = export(module, "x=N[1..8]x6x8")

    session = onnxruntime.InferenceSession(written.artifact.model_path)
    for count in (1, 5):
        x = torch.rand(count, 6, 8)
        (found,) = session.run(None, {"x": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=1e-4, atol=1e-5)


class Biased(nn.Module):
    """Attention with a learnt mask, its heads joined again behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.linspace(-1, 1, 72).reshape(1, 2, 6, 6))

    def forward(self, x: Tensor) -> Any:
        """[N, 6, 8]."""
        q, k, v = (p.reshape(-1, 6, 2, 4).transpose(1, 2) for p in self.qkv(x).chunk(3, dim=-1))
        found = scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return found.transpose(1, 2).reshape(x.shape[0], 6, 8)


def test_a_learnt_mask_changes_the_layout_where_gradients_are_taken(export: Export) -> None:
    module = Biased()

    written = export(module, "x=N[1..8]x6x8")

    x = torch.rand(3, 6, 8)
    (found,) = onnxruntime.InferenceSession(written.artifact.model_path).run(None, {"x": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=1e-4, atol=1e-5)


def test_what_was_captured_without_gradients_can_be_trained() -> None:
    module = Biased()
    graph = capture(Model(module, parse_inputs(["x=N[1..8]x6x8"]))).module()
    x = torch.rand(3, 6, 8)

    graph(x=x).sum().backward()

    torch.testing.assert_close(graph(x=x), module(x))
    assert any(parameter.grad is not None for parameter in graph.parameters())
