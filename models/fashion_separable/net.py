"""A small depthwise separable network for 28x28 grey images: MobileNet's blocks, V1 and V2."""

from __future__ import annotations

from deploykit.nets.separable import Separable, Stage, separable


def build(*, in_channels: int = 1, classes: int = 10, seed: int = 0) -> Separable:
    """The network with fresh weights: two plain blocks, then four inverted residuals."""
    return separable(
        stem=16,
        stages=(
            Stage(32, blocks=2, stride=2),
            Stage(32, blocks=2, expand=4),
            Stage(64, blocks=2, stride=2, expand=4),
        ),
        last=128,
        in_channels=in_channels,
        classes=classes,
        seed=seed,
    )
