"""The two kernels of a split layer, fitted to the outputs that the original layer gives.

The nearest kernels over weights take all taps for equally large and unrelated. What goes through a
layer is neither. So the split is fitted to data: minimise Σ |y - P D p - b|² over the depthwise
kernels D, the pointwise ones P and the bias b, with y what the original layer gave in the original
network and p what the split one sees in the partly split network, whose errors it so makes up for
(Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification and Detection",
TPAMI 2016, arXiv:1505.06798, section 3.3). Given D it is a linear least-squares problem in P and
b, and given P one in D: solved in turns, each of which can only lower the error. Both are held to
where they are by a small ridge, which decides what the data leave open.

What is handed over was better on samples that were held out; else it is the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from deploykit.compress.separable.moments import Moments

_RIDGE = 1e-4  # of the mean square of what is weighted
_MOST_TURNS = 20
_LEAST_GAIN = 1e-3  # of the error: a turn that gains less is the last
MOST_UNKNOWNS = 2304
"""Depthwise weights that are solved for at once; of larger layers only the pointwise ones are."""


class Kernels(NamedTuple):
    """A split layer.

    Attributes:
        depthwise: D, [groups, I / groups, r, K].
        pointwise: P, [groups, O / groups, I / groups, r].
        bias: b, [groups, O / groups].
    """

    depthwise: Tensor
    pointwise: Tensor
    bias: Tensor

    def whole(self) -> Tensor:
        """The layer over taps and the 1 beside them, [groups, O / groups, I / groups K + 1]."""
        made = torch.einsum("giak,goia->goik", self.depthwise, self.pointwise).flatten(2)
        return torch.cat([made, self.bias.unsqueeze(2)], dim=2)

    def evened(self) -> Kernels:
        """The same layer; each depthwise kernel as large as the pointwise ones that read it."""
        first = self.depthwise.norm(dim=3, keepdim=True).clamp_min(1e-12)
        second = self.pointwise.norm(dim=1).unsqueeze(-1).clamp_min(1e-12)
        scale = (second / first).sqrt()
        return Kernels(
            self.depthwise * scale, self.pointwise / scale.squeeze(-1).unsqueeze(1), self.bias
        )


def fitted(start: Kernels, seen: Moments, held: Moments, *, bias: bool, both: bool) -> Kernels:
    """The kernels that are best on what was held out: the start, or fitted once or in turns.

    Args:
        start: the nearest over weights.
        seen: what is fitted to.
        held: what judges.
        bias: whether the layer has one; else it stays as it is.
        both: whether depthwise kernels are fitted too, and evened with the pointwise ones.
    """
    best, least = start, held.error(start.whole())
    at, before = start, seen.error(start.whole())
    for _ in range(_MOST_TURNS if both else 1):
        at = _pointwise(at, seen, bias=bias)
        if both:
            at = _depthwise(at, seen)
        if (error := held.error(at.whole())) < least:
            best, least = at, error
        now = seen.error(at.whole())
        if now > before * (1 - _LEAST_GAIN):
            break
        before = now
    return best.evened() if both else best


def _pointwise(at: Kernels, seen: Moments, *, bias: bool) -> Kernels:
    """P, and b where there is one, given D."""
    groups, inside, rank, places = at.depthwise.shape
    middle = inside * rank
    over = at.depthwise.new_zeros(groups, inside, rank, inside, places)
    each = torch.arange(inside)
    over[:, each, :, each] = at.depthwise.permute(1, 0, 2, 3)
    over = over.reshape(groups, middle, inside * places)
    edge = over.new_zeros(groups, middle, 1)
    one = over.new_zeros(groups, 1, inside * places + 1)
    one[:, :, -1] = 1
    over = torch.cat([torch.cat([over, edge], dim=2), one], dim=1)  # taps and 1 -> filtered and 1
    gram = over @ seen.taps @ over.transpose(1, 2)
    cross = seen.cross @ over.transpose(1, 2)
    now = torch.cat([at.pointwise.flatten(2), at.bias.unsqueeze(2)], dim=2)
    left = cross - now @ gram
    if not bias:
        gram, left = gram[:, :-1, :-1], left[:, :, :-1]
    ridge = _ridge(gram[:, :middle, :middle])
    if bias:
        ridge[:, -1] = 0
        ridge = torch.cat([ridge, ridge.new_zeros(groups, 1)], dim=1)[:, : middle + 1]
    step = torch.linalg.solve(gram + torch.diag_embed(ridge), left.transpose(1, 2)).transpose(1, 2)
    pointwise = at.pointwise + step[:, :, :middle].reshape(at.pointwise.shape)
    return Kernels(at.depthwise, pointwise, at.bias + step[:, :, -1] if bias else at.bias)


def _depthwise(at: Kernels, seen: Moments) -> Kernels:
    """D, given P and b, group by group."""
    made = []
    for group, (kernels, points, bias) in enumerate(zip(*at, strict=True)):
        inside, rank, places = kernels.shape
        taps = seen.taps[group, :-1, :-1].reshape(inside, 1, places, inside, 1, places)
        left = seen.cross[group, :, :-1] - bias[:, None] * seen.taps[group, -1, :-1]
        wanted = torch.einsum("oia,oik->iak", points, left.reshape(-1, inside, places))
        flat = points.flatten(1)
        beside = (flat.T @ flat).reshape(inside, rank, 1, inside, rank, 1)
        size = inside * rank * places
        gram = (beside * taps).reshape(size, size)
        ridge = _ridge(gram[None])[0]
        now = kernels.flatten()
        step = torch.linalg.solve(gram + torch.diag(ridge), wanted.flatten() - gram @ now)
        made.append((now + step).reshape(kernels.shape))
    return Kernels(torch.stack(made), at.pointwise, at.bias)


def _ridge(gram: Tensor) -> Tensor:
    """One number for every unknown of a group, [groups, unknowns]."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True).clamp_min(1e-12)
    return (_RIDGE * mean).expand(-1, gram.shape[1]).clone()
