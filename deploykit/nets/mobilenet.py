"""The MobileNets at their published sizes, and at any width and resolution.

Sources: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017 (arXiv:1704.04861), table 1, with sections 3.3 (width multiplier) and 3.4
(resolution multiplier); Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018 (arXiv:1801.04381), table 2.

At width 1, 224 pixels and 1,000 classes V1 has 4,231,976 parameters and V2 3,504,872, as the
authors' and torchvision's have. For smaller images the first of the five halvings are left out, so
that 3 pixels a side or more are left to pool: of 28 or 32 pixels three halvings leave 4.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from deploykit.core.errors import BadInputError
from deploykit.nets.seeding import initial_weights
from deploykit.nets.separable import Separable, Stage, initialised

_LEAST_PIXELS = 3
_HALVINGS = 5
_LEAST_SHARE = 0.9
_STEM = 32
_V1 = (
    Stage(64),
    Stage(128, blocks=2, stride=2),
    Stage(256, blocks=2, stride=2),
    Stage(512, blocks=6, stride=2),
    Stage(1024, blocks=2, stride=2),
)
_V2 = (
    Stage(16, expand=1),
    Stage(24, blocks=2, stride=2, expand=6),
    Stage(32, blocks=3, stride=2, expand=6),
    Stage(64, blocks=4, stride=2, expand=6),
    Stage(96, blocks=3, expand=6),
    Stage(160, blocks=3, stride=2, expand=6),
    Stage(320, expand=6),
)
_V2_LAST = 1280


def mobilenet_v1(
    *,
    width: float = 1.0,
    size: int = 224,
    classes: int = 1000,
    in_channels: int = 3,
    divisor: int = 8,
    dropout: float = 0.0,
    seed: int = 0,
) -> Separable:
    """Plain separable blocks, with fresh weights.

    Args:
        width: what the channels of every layer are multiplied by, above 0.
        size: of the images in pixels, the shorter side; it only decides how often they are halved.
        classes: length of the output.
        in_channels: of the images: 1 grey, 3 colour.
        divisor: channels are multiples of it (see `rounded`); 1 takes them as they come.
        dropout: share of the pooled features that training drops, 0 to below 1.
        seed: of the initial weights: equal seeds give equal weights.

    Raises:
        BadInputError: a width, size, number or share that no network can have.
    """
    _check(width, size, divisor, dropout, classes=classes, in_channels=in_channels)
    with initial_weights(seed):
        return _built(_V1, 0, width, size, divisor, dropout, classes, in_channels)


def mobilenet_v2(
    *,
    width: float = 1.0,
    size: int = 224,
    classes: int = 1000,
    in_channels: int = 3,
    divisor: int = 8,
    dropout: float = 0.2,
    seed: int = 0,
) -> Separable:
    """Inverted residuals with linear bottlenecks, with fresh weights; arguments as in V1.

    The last convolution never gets narrower than 1,280 channels (section 6.1 of the paper).
    """
    _check(width, size, divisor, dropout, classes=classes, in_channels=in_channels)
    last = rounded(_V2_LAST * max(1.0, width), divisor)
    with initial_weights(seed):
        return _built(_V2, last, width, size, divisor, dropout, classes, in_channels)


def rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple, never less than 90 % of what was asked for, and one multiple at least.

    Kernels work on blocks of channels: 8 of them are what vector units and matrix engines take.
    """
    near = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return near + divisor if near < _LEAST_SHARE * channels else near


def _built(  # noqa: PLR0917  (the two builders' own arguments, in their order)
    stages: tuple[Stage, ...],
    last: int,
    width: float,
    size: int,
    divisor: int,
    dropout: float,
    classes: int,
    in_channels: int,
) -> Separable:
    kept = max(n for n in range(_HALVINGS + 1) if n == 0 or size >= _LEAST_PIXELS << n)
    left_out = _HALVINGS - kept
    stem_stride = 1 if left_out else 2
    left_out -= left_out > 0
    made = []
    for stage in stages:
        stride = stage.stride
        if stride > 1 and left_out:
            stride, left_out = 1, left_out - 1
        channels = rounded(stage.channels * width, divisor)
        made.append(replace(stage, channels=channels, stride=stride))
    net = Separable(
        rounded(_STEM * width, divisor),
        tuple(made),
        last,
        in_channels,
        classes,
        stem_stride=stem_stride,
        dropout=dropout,
    )
    return initialised(net)


def _check(width: float, size: int, divisor: int, dropout: float, **counts: int) -> None:
    if not 0 < width < inf:
        raise BadInputError(f"width must be above 0, not {width:g}")
    for name, value in {"size": size, "divisor": divisor, **counts}.items():
        if value < 1:
            raise BadInputError(f"{name} must be 1 or more, not {value}")
    if not 0 <= dropout < 1:
        raise BadInputError(f"dropout must be from 0 to below 1, not {dropout:g}")
