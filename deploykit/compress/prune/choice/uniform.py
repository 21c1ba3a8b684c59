"""The same share of every group: the network at another width, as a width multiplier builds it.

Source: Howard et al., "MobileNets", 2017 (arXiv:1704.04861), section 3.3, the width multiplier;
numbers of channels are rounded as its authors' code does (Sandler et al., MobileNetV2, CVPR 2018:
`_make_divisible`): to the nearest multiple, never more than a tenth below the share.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.choice.candidates import candidates

if TYPE_CHECKING:
    from deploykit.compress.prune.choice.ranking import Integers, Scores
    from deploykit.compress.prune.structure import Group, Structure

_MOST_BELOW = 0.9  # of the share, after rounding down


def uniform(structure: Structure, scores: Scores, width: float, align: int) -> dict[str, Integers]:
    """The least important channels of every group that may be cut, down to the same share.

    Args:
        structure: of the network.
        scores: of its channels.
        width: share that stays, above 0, at most 1.
        align: see `kept_channels`.

    Returns:
        int64 numbers of the channels that go, ascending, by group; groups that stay whole are
        left out.

    Raises:
        BadInputError: no group may be cut; the message has the reason.
    """
    removed: dict[str, Integers] = {}
    for group in candidates(structure):
        gone = group.channels - kept_channels(group, width, align)
        if gone > 0 and group.name in scores:
            # Equal scores: the later channel goes, so that what is kept is the first of equals.
            order = np.lexsort((-np.arange(group.channels), scores[group.name]))
            removed[group.name] = np.sort(order[:gone]).astype(np.int64)
    return removed


def kept_channels(group: Group, width: float, align: int) -> int:
    """How many channels of a group stay, at least one.

    Args:
        group: a channel of it may stand for several indices: a head's, say.
        width: share that stays.
        align: the indices that stay are a multiple of it, or all.
    """
    step = align // gcd(align, group.unit)
    wanted = width * group.channels
    kept = max(step, int(wanted + step / 2) // step * step)
    if kept < _MOST_BELOW * wanted:
        kept += step
    return min(kept, group.channels)
