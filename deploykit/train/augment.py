"""Random crop and flip of a whole batch at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

    from deploykit.core.types import Preprocessing
    from deploykit.train.options import TrainOptions


def augment(
    images: Tensor, options: TrainOptions, black: Tensor, generator: torch.Generator
) -> Tensor:
    """Shift and mirror every image of a batch by draws of its own.

    Args:
        images: shape [N, C, H, W].
        options: `crop` and `flip`; where neither is set, `images` comes back as it is.
        black: the value of a black pixel after normalisation, shape [C, 1, 1].
        generator: the draws come from it, on the CPU.

    Raises:
        BadInputError: the input is not a batch of images.
    """
    if not options.crop and not options.flip:
        return images
    if images.dim() != 4:
        raise BadInputError(
            f"crop and flip are for images of shape [N, C, H, W], not {list(images.shape)}; "
            "set crop = 0 and flip = false in [train]"
        )
    if options.crop:
        images = _shift(images, options.crop, black, generator)
    if options.flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(
            mirrored.to(images.device)[:, None, None, None], images.flip(3), images
        )
    return images


def black_of(preprocessing: Preprocessing | None) -> Tensor:
    """What a black pixel is after normalisation, shape [C, 1, 1]; 0 where nobody said."""
    if preprocessing is None or not preprocessing.mean:
        return torch.zeros(1, 1, 1)
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    return (-mean / std).reshape(-1, 1, 1)


def _shift(images: Tensor, pixels: int, black: Tensor, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    # Padding with zeros around (image - black), so that the border is black after adding it back.
    level = black.to(images)
    padded = F.pad(images - level, (pixels,) * 4) + level
    top, left = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator).to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    number = torch.arange(count, device=images.device)[:, None, None]
    # Indexing moves the channels last; the result is NCHW again, in channels-last memory.
    return padded[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
