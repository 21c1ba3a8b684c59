"""Batch normalisation over the whole batch, where several processes have a part of it each.

Torch's `SyncBatchNorm` does this on GPUs and refuses to elsewhere. Without it, each process
normalises by the samples that it happens to have, and the result depends on how many there are.

Source: Ioffe and Szegedy, ICML 2015 (arXiv:1502.03167), algorithm 1.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class GlobalBatchNorm(_BatchNorm):
    """A batch normalisation whose mean and variance are those of all processes' samples.

    Each process must have as many of them as the others.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, C, ...] to the same."""
        if not self.training:
            return super().forward(x)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
        world = distributed.get_world_size()
        values = x.float()
        mean = _mean(values.mean(dims), world)
        apart = values - mean.reshape(shape)
        variance = _mean(apart.square().mean(dims), world)
        self._follow(mean, variance, world * x.numel() // x.shape[1])
        found = apart * torch.rsqrt(variance + self.eps).reshape(shape)
        if self.affine:
            found = found * self.weight.reshape(shape) + self.bias.reshape(shape)
        return found.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Running statistics, of the unbiased variance, as torch keeps them."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(1, count - 1)), share)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  (torch's own name)
        """Any number of dimensions that the layer took before."""


def synchronised(net: nn.Module, device: torch.device) -> nn.Module:
    """The network with its batch normalisations over all processes; names of weights stay.

    Args:
        net: changed in place. What normalises without a module of its own is left as it is.
        device: that it runs on.
    """
    if device.type == "cuda":
        return cast("nn.Module", nn.SyncBatchNorm.convert_sync_batchnorm(net))  # type: ignore[no-untyped-call]  # torch's own
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
                setattr(parent, name, _global(child))
    return net


def _global(layer: _BatchNorm) -> GlobalBatchNorm:
    found = GlobalBatchNorm(
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
    )
    # The very same tensors, so that a weight that two layers share stays one.
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(found, name, parameter)
    for name, buffer in layer.named_buffers(recurse=False):
        setattr(found, name, buffer)
    return found.train(layer.training)


def _mean(values: Tensor, world: int) -> Tensor:
    return cast("Tensor", all_reduce(values)) / world  # type: ignore[no-untyped-call]  # torch's own
