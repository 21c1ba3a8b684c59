"""Augmentation of a whole batch at once, each image by draws of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

    from deploykit.train.draws import Draws
    from deploykit.train.options import TrainOptions
    from deploykit.train.pixels import Pixels

_FIELDS = ("crop", "flip", "zoom", "jitter", "erase")
_LOG_ASPECT = 0.2876820724517809  # ln(4 / 3): Szegedy et al., CVPR 2015, section 6
_ERASED_AREA, _ERASED_LOG_ASPECT = (0.02, 0.33), 1.2039728043259361  # ln(10 / 3): Zhong et al.
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, section 2.5.1


def augment(images: Tensor, options: TrainOptions, pixels: Pixels, draws: Draws) -> Tensor:
    """Cut out, shift, mirror, colour and blacken every image of a batch, as the options say.

    Args:
        images: shape [N, C, H, W].
        options: where none of them is set, `images` comes back as it is.
        pixels: what the numbers mean.
        draws: for N samples.

    Raises:
        BadInputError: the input is not a batch of images, or nothing is known of its pixels.
    """
    if not any(getattr(options, name) for name in _FIELDS):
        return images
    if images.dim() != 4 or not images.is_floating_point():
        asked = " and ".join(name for name in _FIELDS if getattr(options, name))
        raise BadInputError(
            f"{asked}: only images of shape [N, C, H, W] have it, not inputs of shape "
            f"{list(images.shape)}; leave it out of [train]"
        )
    if options.zoom:
        images = _zoomed(images, options.zoom, draws)
    if options.crop:
        images = _shifted(images, options.crop, pixels.black, draws)
    if options.flip:
        mirrored = draws.chosen(0.5).to(images.device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if options.jitter:
        images = _jittered(images, options.jitter, pixels, draws)
    if options.erase:
        images = _erased(images, options.erase, pixels.black, draws)
    return images


def _zoomed(images: Tensor, least: float, draws: Draws) -> Tensor:
    """A window of each image, resized to the whole by bilinear interpolation."""
    area = draws.uniform(least, 1.0)
    aspect = draws.uniform(-_LOG_ASPECT, _LOG_ASPECT).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    across, down = draws.uniform(-1, 1) * (1 - width), draws.uniform(-1, 1) * (1 - height)
    zero = torch.zeros_like(width)
    rows = torch.stack([width, zero, across, zero, height, down], dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(rows.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _shifted(images: Tensor, most: int, black: Tensor, draws: Draws) -> Tensor:
    count, _, height, width = images.shape
    # Padding with zeros around (image - black), so that the border is black after adding it back.
    level = black.to(images)
    padded = F.pad(images - level, (most,) * 4) + level
    top, left = (draws.integers(2 * most).to(images.device) for _ in range(2))
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    number = torch.arange(count, device=images.device)[:, None, None]
    # Indexing moves the channels last; the result is NCHW again, in channels-last memory.
    return padded[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _jittered(images: Tensor, most: float, pixels: Pixels, draws: Draws) -> Tensor:
    """Brightness, contrast and saturation, one after the other, within 0 to 1."""
    found = pixels.raw(images)
    brightness, contrast, saturation = (
        draws.uniform(1 - most, 1 + most).to(images)[:, None, None, None] for _ in range(3)
    )
    found = (found * brightness).clamp(0, 1)
    mean = _grey(found).mean(dim=(1, 2, 3), keepdim=True)
    found = ((found - mean) * contrast + mean).clamp(0, 1)
    grey = _grey(found)
    found = ((found - grey) * saturation + grey).clamp(0, 1)
    return pixels.normalised(found)


def _grey(images: Tensor) -> Tensor:
    """Luma of RGB, shape [N, 1, H, W]; the mean of any other channels."""
    if images.shape[1] != len(_GREY):
        return images.mean(dim=1, keepdim=True)
    weights = torch.tensor(_GREY).to(images)[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)


def _erased(images: Tensor, share: float, black: Tensor, draws: Draws) -> Tensor:
    area = draws.uniform(*_ERASED_AREA)
    aspect = draws.uniform(-_ERASED_LOG_ASPECT, _ERASED_LOG_ASPECT).exp()
    sides = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
    chosen = draws.chosen(share)
    inside = chosen.to(images.device)[:, None, None]
    for axis, side in zip((1, 2), sides, strict=True):
        size = images.shape[axis + 1]
        length = (side * size).round().clamp(min=1)
        begin = (draws.uniform(0, 1) * (size - length + 1)).floor()
        place = torch.arange(size)
        within = (place >= begin[:, None]) & (place < (begin + length)[:, None])
        inside = inside & within.to(images.device).unsqueeze(3 - axis)
    return torch.where(inside[:, None], black.to(images), images)
