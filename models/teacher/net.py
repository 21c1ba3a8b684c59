"""The teacher of the classic pair: 64 and 128 channels, 1,000 hidden units."""

from __future__ import annotations

from deploykit.nets.classic import Classic, teacher


def build(*, in_channels: int = 3, size: int = 32, classes: int = 10, seed: int = 0) -> Classic:
    """The network with fresh weights, by default for 3x32x32 images."""
    return teacher(in_channels=in_channels, size=size, classes=classes, seed=seed)
