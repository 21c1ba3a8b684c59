"""Samples mixed in pairs: mixup and CutMix.

Neighbours in a batch are each other's partners. The order of the samples is drawn anew each epoch,
so that these pairs are as random as any, and no sample needs one of another process's part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deploykit.core.errors import BadInputError
from deploykit.train.objective import Target

if TYPE_CHECKING:
    from torch import Tensor

    from deploykit.train.draws import Draws
    from deploykit.train.options import TrainOptions


def mixed(
    inputs: tuple[Tensor, ...], labels: Tensor, options: TrainOptions, draws: Draws
) -> tuple[tuple[Tensor, ...], tuple[Target, ...]]:
    """Each sample with some of its partner in it, and the labels of both.

    Args:
        inputs: each of shape [N, ...].
        labels: shape [N, ...].
        options: `mixup` and `cutmix`; where neither is set, nothing is mixed.
        draws: for N samples.

    Returns:
        The inputs, and one target or two.

    Raises:
        BadInputError: inputs that cannot be mixed.
    """
    if not options.mixup and not options.cutmix:
        return inputs, (Target(labels),)
    cuts = bool(options.cutmix) and (not options.mixup or draws.one() < 0.5)
    share = draws.beta(options.cutmix if cuts else options.mixup)
    if cuts:
        inputs, share = _cut(inputs, share, draws)
    else:
        for part in inputs:
            if not part.is_floating_point():
                raise BadInputError(
                    f"mixup adds inputs up, and whole numbers ({part.dtype}) stand for things; "
                    "set mixup = 0 in [train]"
                )
        inputs = tuple(torch.lerp(partners(part), part, share) for part in inputs)
    return inputs, (Target(labels, share), Target(partners(labels), 1 - share))


def partners(values: Tensor) -> Tensor:
    """Neighbours changed for each other; the last of an odd number is its own partner."""
    even = len(values) // 2 * 2
    pairs = values[:even].reshape(-1, 2, *values.shape[1:]).flip(1).reshape(values[:even].shape)
    return torch.cat([pairs, values[even:]])


def _cut(
    inputs: tuple[Tensor, ...], share: float, draws: Draws
) -> tuple[tuple[Tensor, ...], float]:
    """A rectangle of each partner, and the share of the image that is left of it."""
    if len(inputs) != 1 or inputs[0].dim() != 4:
        shapes = ", ".join(str(list(part.shape)) for part in inputs)
        raise BadInputError(
            f"cutmix is for networks of one input of images, [N, C, H, W], not {shapes}; set "
            "cutmix = 0 in [train]"
        )
    (images,) = inputs
    spans = []
    for size in images.shape[2:]:
        half = size * (1 - share) ** 0.5 / 2
        middle = draws.one(size)
        spans.append((max(0, round(middle - half)), min(size, round(middle + half))))
    (top, bottom), (left, right) = spans
    found = images.clone()
    found[:, :, top:bottom, left:right] = partners(images)[:, :, top:bottom, left:right]
    return (found,), 1 - (bottom - top) * (right - left) / images[0, 0].numel()
