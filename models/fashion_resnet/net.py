"""A small residual network for 28x28 grey images: three stages of two basic blocks."""

from __future__ import annotations

from deploykit.nets.resnet import ResNet, resnet


def build(*, in_channels: int = 1, classes: int = 10, seed: int = 0) -> ResNet:
    """The network with fresh weights; 32, 64 and 128 channels."""
    return resnet(
        channels=(32, 64, 128), blocks=2, in_channels=in_channels, classes=classes, seed=seed
    )
