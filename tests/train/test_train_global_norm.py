"""Batch normalisation over two processes: that of one with all samples, and its gradients."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from deploykit.train.global_norm import synchronised

if TYPE_CHECKING:
    from pathlib import Path

_CASES = (((8, 5, 6, 7), True), ((8, 5), False), ((8, 5, 9), True))
_FAR = 300.0  # by its deviation, where squares would cancel in float32


class _OfAnyShape(nn.BatchNorm2d):
    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  (torch's own name)
        pass


def _layer(affine: bool) -> nn.Module:
    torch.manual_seed(1)
    layer = _OfAnyShape(5, affine=affine)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    return nn.Sequential(layer)


def _batch(shape: tuple[int, ...], kind: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x, weights = torch.randn(2, *shape)
    return (x + _FAR if kind == torch.float32 else x).to(kind), weights.to(kind)


def _results(net: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, running statistics and gradients of the sum of weighted outputs."""
    x = x.clone().requires_grad_()
    y = net.train()(x)
    (y * weights).sum().backward()
    assert x.grad is not None
    found = {"y": y.detach(), "x": x.grad, **net.state_dict()}
    gradients = {f"by {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {name: tensor.double() for name, tensor in {**found, **gradients}.items()}


def _part(
    process: int, place: str, shape: tuple[int, ...], affine: bool, kind: torch.dtype
) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=process, world_size=2
    )
    net = synchronised(_layer(affine), torch.device("cpu"))
    x, weights = (tensor.chunk(2)[process] for tensor in _batch(shape, kind))
    torch.save(_results(net, x, weights), f"{place}/{process}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "affine"), _CASES)
def test_two_processes_normalise_as_one(
    tmp_path: Path, shape: tuple[int, ...], affine: bool, kind: torch.dtype
) -> None:
    spawn(_part, (str(tmp_path), shape, affine, kind), nprocs=2)  # type: ignore[no-untyped-call]  # torch's own
    parts = [torch.load(tmp_path / f"{process}.pt", weights_only=True) for process in range(2)]
    # One process in float64: what both should be near.
    x, weights = _batch(shape, kind)
    whole = _results(deepcopy(_layer(affine)).double(), x.double(), weights.double())
    relative, absolute = (1e-4, 1e-4) if kind == torch.float32 else (0.02, 0.05)

    for name, wanted in whole.items():
        if name in {"y", "x"}:
            found = torch.cat([part[name] for part in parts])
        elif name.startswith("by "):
            found = parts[0][name] + parts[1][name]
        else:
            torch.testing.assert_close(parts[0][name], parts[1][name], rtol=0, atol=0)
            found = parts[0][name]
        torch.testing.assert_close(found, wanted, rtol=relative, atol=absolute)
