"""A network cut to a share of its MACs by Torch-Pruning, in each way that its README offers.

Magnitude of the group (L2), the final classifier left alone. The library takes a ratio of channels;
the smallest one that meets the MACs is found by bisection, on the library's own count.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

_BISECTIONS = 14
_STEPS = 10  # of iterative pruning: scores are taken anew after each
_MOST_OF_A_LAYER = 0.9


@dataclass(frozen=True, slots=True)
class Way:
    """Options of the library's pruner.

    Attributes:
        over_all: whether all layers compete (`global_pruning`), or each loses the same share.
        isomorphic: whether only layers of the same structure compete (with `over_all`).
        steps: of iterative pruning; 1 is at one go.
        round_to: kept channels are multiples of it, where the library can; 1 for any number.
    """

    over_all: bool
    isomorphic: bool = False
    steps: int = 1
    round_to: int = 1


WAYS = {
    "layer": Way(over_all=False),
    "global": Way(over_all=True),
    "global, iterative": Way(over_all=True, steps=_STEPS),
    "isomorphic": Way(over_all=True, isomorphic=True),
}


def cut_to_macs(module: nn.Module, images: Tensor, share: float, way: Way) -> nn.Module:
    """A smaller copy that has at most this share of the MACs.

    Args:
        module: not changed.
        images: an example batch.
        share: of the MACs, above 0 and below 1.
        way: how channels are chosen.
    """
    import torch_pruning as tp

    most = share * float(tp.utils.count_ops_and_params(module, images)[0])
    low, high = 0.0, _MOST_OF_A_LAYER
    best = _pruned(module, images, high, way)
    for _ in range(_BISECTIONS):
        ratio = (low + high) / 2
        small = _pruned(module, images, ratio, way)
        if tp.utils.count_ops_and_params(small, images)[0] <= most:
            best, high = small, ratio
        else:
            low = ratio
    return best


def _pruned(module: nn.Module, images: Tensor, ratio: float, way: Way) -> nn.Module:
    import torch_pruning as tp

    small = deepcopy(module)
    pruner = tp.pruner.BasePruner(
        small,
        images,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        max_pruning_ratio=_MOST_OF_A_LAYER,
        global_pruning=way.over_all,
        isomorphic=way.isomorphic,
        iterative_steps=way.steps,
        round_to=way.round_to if way.round_to > 1 else None,
        ignored_layers=_classifiers(small, int(module(images).shape[-1])),
    )
    for _ in range(way.steps):
        pruner.step()
    return small


def _classifiers(module: nn.Module, classes: int) -> list[nn.Module]:
    from torch import nn

    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [layer for layer in linear if layer.out_features == classes]
