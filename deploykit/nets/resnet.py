"""A small residual network for small images.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016
(arXiv:1512.03385), section 4.2: the form for small images (a 3x3 stem without pooling, three
stages that halve the resolution), here with projection shortcuts (option B of section 4.1) and
twice the channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from deploykit.nets.seeding import initial_weights


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them; `stride` is that of the first."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                _conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of basic blocks, global average pooling, one fully connected layer.

    Every stage after the first halves height and width. Any input of at least
    2 ** (stages - 1) pixels a side works: the pooling takes what is left.
    """

    def __init__(
        self, channels: tuple[int, ...], blocks: int, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(in_channels, channels[0], 3), nn.BatchNorm2d(channels[0]), nn.ReLU()
        )
        widths = [channels[0], *channels]
        self.stages = nn.Sequential(
            *(
                _stage(before, width, blocks, stride=1 if number == 0 else 2)
                for number, (before, width) in enumerate(pairwise(widths))
            )
        )
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape [N, in_channels, H, W] to logits of shape [N, classes]."""
        features: Tensor = self.stages(self.stem(x))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def resnet(
    *,
    channels: tuple[int, ...] = (32, 64, 128),
    blocks: int = 2,
    in_channels: int = 1,
    classes: int = 10,
    seed: int = 0,
) -> ResNet:
    """A residual network with fresh weights.

    Args:
        channels: of each stage.
        blocks: basic blocks in each stage.
        in_channels: of the images: 1 grey, 3 colour.
        classes: length of the output.
        seed: of the initial weights: equal seeds give equal weights.
    """
    with initial_weights(seed):
        net = ResNet(channels, blocks, in_channels, classes)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                # He et al., ICCV 2015 (arXiv:1502.01852), eq. 10, with the fan-out.
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _conv(in_channels: int, channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    # No bias: the batch normalisation behind it has one.
    return nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, bias=False)
