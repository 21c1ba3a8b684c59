"""What a convolution costs, and what it costs split: weights, and multiply-accumulates a sample.

Source: Howard et al., "MobileNets", 2017 (arXiv:1704.04861), section 3.1: k k I O against
k k I + I O; here with r depthwise kernels a channel, k k I r + I r O. Biases are counted in
neither, since both have the same ones. For 3 x 3 and 2 -> 4 channels: 72 against 26.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def weights_whole(weight: Sequence[int]) -> int:
    """K k I O (with groups, I is the inputs of one).

    Args:
        weight: shape of the kernel, [O, I / groups, k, k].
    """
    return prod(weight)


def weights_split(weight: Sequence[int], rank: int, groups: int = 1) -> int:
    """K k I r + I r O, with O the outputs of one group where there are groups.

    Args:
        weight: shape of the kernel, [O, I / groups, k, k].
        rank: depthwise kernels a channel.
        groups: of the convolution.
    """
    outputs, inputs, *kernel = weight
    middle = inputs * groups * rank
    return prod(kernel) * middle + middle * (outputs // groups)


def most_rank(weight: Sequence[int], groups: int = 1) -> int:
    """The rank from which on the split is exact: min(O / groups, k k)."""
    outputs, _, *kernel = weight
    return min(outputs // groups, prod(kernel))
