"""Initial weights for a cut network, as if it had been built so small.

They are cut from a whole network that was just built, so that everything that its author does at
the start is kept: norms that begin with 0, factors of layer scale, tables of positions, statistics
without data. What depends on a layer's size has to follow it: the variance of a weight that was
drawn by a rule of fans is brought to what the rule gives for the smaller layer.

Sources of the rules: Glorot and Bengio, AISTATS 2010, eq. 16; He et al., ICCV 2015
(arXiv:1502.01852), eq. 10 and 14; LeCun et al., "Efficient BackProp", 1998, eq. 16; and
`reset_parameters` of torch's own layers, a third of LeCun's variance.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from deploykit.compress.prune.plan import Plan

_RULES = (("in", 2.0), ("in", 1.0), ("in", 1 / 3), ("out", 2.0), ("out", 1.0), ("mean", 1.0))
"""Variance times a fan: gains for a ReLU, for a linear layer, and of torch's own layers."""
_MOST_ERRORS = 4.0  # standard errors that a sample's variance may be away from the rule's


def fresh_state(built: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """What is left of a new network's tensors, with the variances of the smaller layers.

    Args:
        built: parameters and buffers of the whole network, by name.
        plan: what goes. Blocks that go are left in: nobody asks for their tensors.
    """
    import torch

    kept = {name: tensor.detach().clone() for name, tensor in built.items()}
    for cut in plan.cuts:
        if cut.parameter in kept:
            indices = torch.tensor(cut.kept)
            kept[cut.parameter] = kept[cut.parameter].index_select(cut.dim, indices)
    return {name: part * _factor(built[name], part.shape) if _is_weight(part) else part
            for name, part in kept.items()}  # fmt: skip


def _is_weight(tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.is_floating_point()


def _factor(whole: Tensor, small: tuple[int, ...]) -> float:
    """What the weight is multiplied by: 1 where no rule of fans fits it."""
    rule = _rule(whole)
    return 1.0 if rule is None else sqrt(_fan(tuple(whole.shape), rule) / _fan(small, rule))


def _rule(weight: Tensor) -> str | None:
    """The fan that the variance of a new weight goes by, or `None`."""
    variance = float(weight.double().var(correction=0))
    allowed = _MOST_ERRORS * sqrt(2 / weight.numel())
    shape = tuple(weight.shape)
    near = [(abs(variance * _fan(shape, fan) / gain - 1), fan) for fan, gain in _RULES]
    error, fan = min(near, key=lambda pair: pair[0])
    return fan if error <= allowed else None


def _fan(shape: tuple[int, ...], which: str) -> float:
    """Numbers that a unit of a layer reads (in) or feeds (out), as torch counts them."""
    reads, feeds = shape[1] * prod(shape[2:]), shape[0] * prod(shape[2:])
    return {"in": float(reads), "out": float(feeds), "mean": (reads + feeds) / 2}[which]
