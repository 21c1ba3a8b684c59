"""A network among images of another size than its own: a student may take smaller ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor, nn

from deploykit.core.types import Dim

if TYPE_CHECKING:
    from deploykit.core.types import Model

_IMAGE_DIMS = 4


class AtSize(nn.Module):
    """Resizes images on the way into a network, with antialiasing; those of its size stay.

    Args:
        inner: the network, which takes [N, C, height, width].
        size: height and width.
    """

    def __init__(self, inner: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.inner = inner
        self.size = size

    def forward(self, images: Tensor) -> object:
        """What the network gives for the images at its own size."""
        if tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return self.inner(images)


def own_size(model: Model) -> tuple[int, int] | None:
    """Height and width that a network of one image takes; `None` where it is free, or no image."""
    if len(model.inputs) != 1:
        return None
    (spec,) = model.inputs
    if len(spec.shape) != _IMAGE_DIMS or not spec.dtype.startswith("float"):
        return None
    height, width = spec.shape[2:]
    if isinstance(height, Dim) or isinstance(width, Dim):
        return None
    return height, width


def at_any_size(model: Model) -> Model:
    """The network behind `AtSize`, declared to take images of any size.

    Args:
        model: whose `own_size` is known.
    """
    size = own_size(model)
    assert size is not None, "asked of networks with a size only"
    (spec,) = model.inputs
    free = replace(spec, shape=(*spec.shape[:2], Dim("H"), Dim("W")))
    return replace(model, module=AtSize(model.module, size).eval(), inputs=(free,))
