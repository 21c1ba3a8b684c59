"""Batch normalisation over the whole batch, where several processes have a part of it each.

Torch's `SyncBatchNorm` does this on GPUs and refuses to elsewhere. Without it, each process
normalises by the samples that it happens to have, and the result depends on how many there are.

Source: Ioffe and Szegedy, ICML 2015 (arXiv:1502.03167), algorithm 1.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class _Normalise(torch.autograd.Function):
    """Torch's own kernels with given moments, and what these add to the gradients.

    With y = w (x - m) / s + b and all N values of a channel, over all processes, in m and s:
    dx = w / s (dy - sum(dy) / N - (x - m) / s * sum(dy (x - m) / s) / N).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        given: tuple[Tensor, Tensor, float],
    ) -> Tensor:
        mean, variance, eps = given
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        return torch.batch_norm(
            x, weight, bias, mean, variance, training=False, momentum=0.0, eps=eps,
            cudnn_enabled=False,
        )  # fmt: skip

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        found, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None,
            False,  # noqa: FBT003  (not of this process's samples alone; no names in this schema)
            ctx.eps, [True, True, True],
        )  # fmt: skip
        sums = torch.stack([by_bias, by_weight])
        distributed.all_reduce(sums)
        level, slope = sums / (distributed.get_world_size() * x.numel() // x.shape[1])
        scale = torch.rsqrt(variance + ctx.eps)
        factor = scale if weight is None else weight * scale
        slope = factor * scale * slope
        level = factor * level - slope * mean
        found -= torch.addcmul(_to(x, level), x, _to(x, slope))
        known = weight is not None
        return found, by_weight if known else None, by_bias if known else None, None


class GlobalBatchNorm(_BatchNorm):
    """A batch normalisation whose mean and variance are those of all processes' samples.

    Each process must have as many of them as the others.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, C, ...] to the same."""
        if not self.training:
            return super().forward(x)
        mean, variance = _moments(x.detach())
        self._follow(mean, variance, distributed.get_world_size() * x.numel() // x.shape[1])
        found = _Normalise.apply(x, self.weight, self.bias, (mean, variance, self.eps))  # type: ignore[no-untyped-call]  # torch's own
        return cast("Tensor", found)

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


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all processes, float32: one exchange for both.

    Means that are far from zero cancel the difference of squares in float32, not in float64.
    """
    own, mean = torch.var_mean(x.float(), [dim for dim in range(x.dim()) if dim != 1], correction=0)
    middle = mean.double()
    both = torch.stack([middle, own.double() + middle.square()])
    distributed.all_reduce(both)
    middle, square = both / distributed.get_world_size()
    return middle.float(), (square - middle.square()).clamp_(min=0).float()


def _to(x: Tensor, values: Tensor) -> Tensor:
    """One value a channel, as wide as x."""
    return values.reshape([-1 if dim == 1 else 1 for dim in range(x.dim())])
