"""A kernel -> the depthwise and the pointwise kernel that are nearest to it, in closed form.

Source: Guo et al., "Network Decoupling: From Regular to Depthwise Separable Convolutions", BMVC
2018 (arXiv:1808.05517), section 3: a kernel W of I inputs and O outputs is a sum over r of
pointwise times depthwise kernels. For each input channel i, W[:, i] is an O x (k k) matrix, and its
first r singular vectors are the best split of rank r (Eckart and Young, "The approximation of one
matrix by another of lower rank", Psychometrika 1936). Channels do not share depthwise kernels, so
that the best for each is the best for all. Grouped convolutions are split group by group.

No normalisation stands between the two: the sum would not be the nearest any more, and behind the
second there is one already, where the network has one (see `deploykit.flow.separable`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from deploykit.compress.separable.counts import most_rank

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d


class SeparableConv(nn.Sequential):
    """`depthwise`, r kernels for each input channel, then `pointwise`, 1 x 1 over all of them.

    What a convolution says of itself, such as `out_channels` and `stride`, this says too; it has no
    `weight`, so that whoever computes with the kernel itself fails, and does not compute wrongly.
    """

    def __init__(self, depthwise: Conv, pointwise: Conv) -> None:
        super().__init__(OrderedDict(depthwise=depthwise, pointwise=pointwise))
        self.in_channels = depthwise.in_channels
        self.out_channels = pointwise.out_channels
        self.groups = pointwise.groups
        for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode"):
            setattr(self, name, getattr(depthwise, name))

    @property
    def parts(self) -> tuple[Conv, Conv]:
        """Both convolutions."""
        return cast("Conv", self.get_submodule("depthwise")), cast(
            "Conv", self.get_submodule("pointwise")
        )


def split(conv: Conv, rank: int) -> SeparableConv:
    """The nearest split of a convolution over its weights; it shares nothing with what was given.

    Args:
        conv: any stride, padding, dilation and groups.
        rank: depthwise kernels for each input channel; what goes beyond an exact split is cut off.
    """
    rank = min(rank, most_rank(conv.weight.shape, conv.groups))
    made = _empty(conv, rank)
    depthwise, pointwise = made.parts
    kernels = nearest(conv.weight.detach(), conv.groups, rank)
    with torch.no_grad():
        put_kernels(made, *kernels)
        if conv.bias is not None and pointwise.bias is not None:
            pointwise.bias.copy_(conv.bias)
    for one in (depthwise.weight, *pointwise.parameters()):
        one.requires_grad_(conv.weight.requires_grad)
    return made.train(conv.training)


def nearest(weight: Tensor, groups: int, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors of each input channel, as large as each other.

    Args:
        weight: [O, I / groups, *k].
        groups: of the convolution.
        rank: r.

    Returns:
        Depthwise [groups, I / groups, r, K] and pointwise [groups, O / groups, I / groups, r], in
        float64, with K the product of the kernel's sizes.
    """
    taps = weight.double().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    left, values, right = torch.linalg.svd(taps.permute(0, 2, 1, 3), full_matrices=False)
    root = values[..., :rank].sqrt()
    depthwise = right[..., :rank, :] * root.unsqueeze(-1)
    pointwise = (left[..., :rank] * root.unsqueeze(-2)).permute(0, 2, 1, 3)
    return depthwise, pointwise


def put_kernels(made: SeparableConv, depthwise: Tensor, pointwise: Tensor) -> None:
    """Write the two factors, shaped as `nearest` gives them, into the layers."""
    first, second = made.parts
    with torch.no_grad():
        first.weight.copy_(depthwise.reshape(first.weight.shape))
        second.weight.copy_(pointwise.reshape(second.weight.shape))


def kernels_of(made: SeparableConv) -> tuple[Tensor, Tensor]:
    """The two factors, shaped as `nearest` gives them, in float64."""
    first, second = made.parts
    groups, rank = second.groups, first.out_channels // first.in_channels
    inside = first.in_channels // groups
    depthwise = first.weight.detach().double().reshape(groups, inside, rank, -1)
    pointwise = second.weight.detach().double().reshape(groups, -1, inside, rank)
    return depthwise, pointwise


def weight_error(conv: Conv, rank: int) -> float:
    """How far the nearest split is off: |W - W'|² / |W|², 0 to 1."""
    depthwise, pointwise = nearest(conv.weight.detach(), conv.groups, rank)
    made = torch.einsum("giak,goia->goik", depthwise, pointwise)
    whole = conv.weight.detach().double().reshape(made.shape)
    return float((whole - made).square().sum() / whole.square().sum().clamp_min(1e-300))


def taps_of(conv: Conv) -> Conv:
    """A depthwise convolution that gives each input under each place of the kernel by itself.

    [N, I, ...] to [N, I K, ...]: what the convolution sums up, whatever its stride, padding,
    padding mode and dilation are.
    """
    places = conv.weight[0, 0].numel()
    taps = _depthwise(conv, places)
    kernels = torch.eye(places, dtype=conv.weight.dtype).reshape(places, 1, *conv.kernel_size)
    with torch.no_grad():
        taps.weight.copy_(kernels.repeat(conv.in_channels, *[1] * (kernels.dim() - 1)))
    return taps


def _empty(conv: Conv, rank: int) -> SeparableConv:
    pointwise = type(conv)(
        conv.in_channels * rank,
        conv.out_channels,
        1,
        groups=conv.groups,
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    return SeparableConv(_depthwise(conv, rank), pointwise)


def _depthwise(conv: Conv, rank: int) -> Conv:
    return type(conv)(
        conv.in_channels,
        conv.in_channels * rank,
        conv.kernel_size,  # type: ignore[arg-type]  # of its own class, here and below
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        groups=conv.in_channels,
        bias=False,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
