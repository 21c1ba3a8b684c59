"""Small networks of depthwise separable convolutions, the MobileNets, for small images.

Sources: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017 (arXiv:1704.04861), section 3.1: the plain separable block (V1); Sandler et al.,
"MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018 (arXiv:1801.04381), section 3:
the inverted residual (V2). Here with a stem of stride 1, as images of 28x28 pixels ask for.

A convolution of k x k from I to O channels has k*k*I*O weights. Split into one k x k filter a
channel (depthwise) and a 1x1 convolution over the channels (pointwise) it has k*k*I + I*O: with
k = 3 and O = 64, an eighth. What is saved is redundancy that also forgave coarse weights: filters
of nine weights, whose ranges differ a hundredfold from channel to channel, make these the networks
that lose most when they are quantized with one scale a tensor (Nagel et al., "Data-Free
Quantization through Weight Equalization and Bias Correction", ICCV 2019, arXiv:1906.04721, section
3).

The MobileNets themselves, at their published sizes, are in `deploykit.nets.mobilenet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from deploykit.core.errors import BadInputError
from deploykit.nets.seeding import initial_weights


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width in a row.

    Attributes:
        channels: that each block gives.
        blocks: how many.
        stride: of the first block; the others keep height and width.
        expand: 0 makes plain separable blocks (V1); 1 or more makes inverted residuals (V2), whose
            depthwise convolution has this many times the block's input channels.
    """

    channels: int
    blocks: int = 1
    stride: int = 1
    expand: int = 0

    def __post_init__(self) -> None:
        """Refuse what no network can have."""
        for name, least in (("channels", 1), ("blocks", 1), ("stride", 1), ("expand", 0)):
            if getattr(self, name) < least:
                raise BadInputError(
                    f"{name} of a stage must be {least} or more, not {getattr(self, name)}"
                )


class PlainBlock(nn.Sequential):
    """V1: a 3x3 filter for each channel, then 1x1 over the channels; ReLU6 after both."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(
            _conv(in_channels, in_channels, 3, stride, groups=in_channels),
            nn.ReLU6(),
            _conv(in_channels, channels, 1),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    """V2: widen, filter each channel, narrow without an activation; and the input, where it fits.

    The narrow end is linear: an activation there would lose what few channels hold (section 3.2 of
    the paper). The shortcut joins narrow ends; it is there where stride and width keep the shape.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = in_channels * expand
        widen = [] if expand == 1 else [_conv(in_channels, wide, 1), nn.ReLU6()]
        self.body = nn.Sequential(
            *widen,
            _conv(wide, wide, 3, stride, groups=wide),
            nn.ReLU6(),
            _conv(wide, channels, 1),
        )
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        out: Tensor = self.body(x)
        return x + out if self.shortcut else out


class Separable(nn.Module):
    """A 3x3 stem, stages, a 1x1 convolution, global average pooling, one fully connected layer.

    Args:
        stem: channels of the first convolution.
        stages: in their order.
        last: channels of the 1x1 convolution; 0: there is none.
        in_channels: of the images.
        classes: length of the output.
        stem_stride: of the first convolution.
        dropout: share of the pooled features that training drops.
    """

    def __init__(
        self,
        stem: int,
        stages: tuple[Stage, ...],
        last: int,
        in_channels: int,
        classes: int,
        *,
        stem_stride: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(in_channels, stem, 3, stem_stride), nn.ReLU6())
        widths = (stem, *(stage.channels for stage in stages))
        self.stages = nn.Sequential(
            *(_blocks(before, stage) for before, stage in zip(widths[:-1], stages, strict=True))
        )
        self.last: nn.Module = nn.Identity()
        if last:
            self.last = nn.Sequential(_conv(widths[-1], last, 1), nn.ReLU6())
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(last or widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape [N, in_channels, H, W] to logits of shape [N, classes]."""
        features: Tensor = self.last(self.stages(self.stem(x)))
        logits: Tensor = self.head(self.dropout(features.mean(dim=(2, 3))))
        return logits


def separable(
    *,
    stem: int = 16,
    stages: tuple[Stage, ...] = (
        Stage(32, blocks=2, stride=2),
        Stage(32, blocks=2, expand=4),
        Stage(64, blocks=2, stride=2, expand=4),
    ),
    last: int = 128,
    in_channels: int = 1,
    classes: int = 10,
    seed: int = 0,
) -> Separable:
    """A depthwise separable network with fresh weights.

    Args:
        stem: channels of the first convolution.
        stages: in their order; V1 and V2 mix.
        last: channels of the last convolution, those that are pooled.
        in_channels: of the images: 1 grey, 3 colour.
        classes: length of the output.
        seed: of the initial weights: equal seeds give equal weights.
    """
    with initial_weights(seed):
        return initialised(Separable(stem, stages, last, in_channels, classes))


def initialised(net: Separable) -> Separable:
    """The network with convolutions drawn anew."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            # He et al., ICCV 2015 (arXiv:1502.01852), eq. 10, with the fan-out, of which a filter
            # of its own channel has no more than k*k.
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net


def _blocks(in_channels: int, stage: Stage) -> nn.Sequential:
    widths = [in_channels, *[stage.channels] * stage.blocks]
    return nn.Sequential(
        *(
            _block(before, stage, stage.stride if number == 0 else 1)
            for number, (before, _) in enumerate(pairwise(widths))
        )
    )


def _block(in_channels: int, stage: Stage, stride: int) -> nn.Module:
    if stage.expand:
        return InvertedResidual(in_channels, stage.channels, stride, stage.expand)
    return PlainBlock(in_channels, stage.channels, stride)


def _conv(
    in_channels: int, channels: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    # No bias: the batch normalisation behind it has one.
    return nn.Sequential(
        nn.Conv2d(
            in_channels, channels, size, stride, padding=size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(channels),
    )
