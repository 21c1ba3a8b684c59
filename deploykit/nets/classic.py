"""The classic pair for compression studies: two convolutions, two fully connected layers.

Both networks are one class: the teacher with 64 and 128 channels and 1,000 hidden units, the
student with half of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.nets.seeding import initial_weights

if TYPE_CHECKING:
    from torch import Tensor


class Classic(nn.Module):
    """Two 3x3 convolutions, each with ReLU and 2x2 max-pooling, then two dense layers.

    The convolutions keep height and width (padding 1), each pooling halves them, rounding down.
    The first dense layer depends on the input's size, so one network takes one size.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        hidden: int,
        classes: int,
        in_channels: int,
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(channels[1] * (size[0] // 4) * (size[1] // 4), hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape [N, in_channels, *size] to logits of shape [N, classes]."""
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


def classic(
    *,
    channels: tuple[int, int],
    hidden: int,
    classes: int = 10,
    in_channels: int = 3,
    size: int | tuple[int, int] = 32,
    seed: int = 0,
) -> Classic:
    """One of the pair, with fresh weights.

    Args:
        channels: of the two convolutions.
        hidden: units of the first dense layer.
        classes: length of the output.
        in_channels: of the images: 1 grey, 3 colour.
        size: of the images in pixels: one number for square ones, or (height, width).
        seed: of the initial weights: equal seeds give equal weights.

    Raises:
        BadInputError: nothing is left of the image after two poolings.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 4:
        raise BadInputError(f"size must be 4 pixels or more a side, not {height}x{width}")
    with initial_weights(seed):
        return Classic(channels, hidden, classes, in_channels, (height, width))


def teacher(*, classes: int = 10, in_channels: int = 3, size: int = 32, seed: int = 0) -> Classic:
    """64 and 128 channels, 1,000 hidden units; arguments as in `classic`."""
    return classic(
        channels=(64, 128),
        hidden=1000,
        classes=classes,
        in_channels=in_channels,
        size=size,
        seed=seed,
    )


def student(*, classes: int = 10, in_channels: int = 3, size: int = 32, seed: int = 0) -> Classic:
    """32 and 64 channels, 500 hidden units; arguments as in `classic`."""
    return classic(
        channels=(32, 64),
        hidden=500,
        classes=classes,
        in_channels=in_channels,
        size=size,
        seed=seed,
    )
