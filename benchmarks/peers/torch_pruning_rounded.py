"""A network cut to a share of its MACs by Torch-Pruning, its channels rounded for the hardware.

As `torch_pruning_cut.py` does it, in the isomorphic way, which kept the most accuracy there, and
with the library's own `round_to`, which an expert would set for INT8.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

_BISECTIONS = 14
_MOST_OF_A_LAYER = 0.9


def cut_rounded(module: nn.Module, images: Tensor, share: float, round_to: int) -> nn.Module:
    """A smaller copy that has at most this share of the MACs.

    Args:
        module: not changed.
        images: an example batch.
        share: of the MACs, above 0 and below 1.
        round_to: kept channels are multiples of it, where the library can; 1 for any number.
    """
    import torch_pruning as tp

    most = share * float(tp.utils.count_ops_and_params(module, images)[0])
    low, high = 0.0, _MOST_OF_A_LAYER
    best = _pruned(module, images, high, round_to)
    for _ in range(_BISECTIONS):
        ratio = (low + high) / 2
        small = _pruned(module, images, ratio, round_to)
        if tp.utils.count_ops_and_params(small, images)[0] <= most:
            best, high = small, ratio
        else:
            low = ratio
    return best


def _pruned(module: nn.Module, images: Tensor, ratio: float, round_to: int) -> nn.Module:
    import torch_pruning as tp
    from torch import nn

    small = deepcopy(module)
    classes = int(module(images).shape[-1])
    linear = [layer for layer in small.modules() if isinstance(layer, nn.Linear)]
    pruner = tp.pruner.BasePruner(
        small,
        images,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        max_pruning_ratio=_MOST_OF_A_LAYER,
        global_pruning=True,
        isomorphic=True,
        round_to=round_to if round_to > 1 else None,
        ignored_layers=[layer for layer in linear if layer.out_features == classes],
    )
    pruner.step()
    return small
