"""The loop that ours is compared with: the shortest that an engineer would write.

The data lies in memory. An epoch shuffles it; a step takes a batch by its rows, goes forward, back
and on. Nothing is checked, judged or kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from deploykit.train.augment import augment
from deploykit.train.draws import Draws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from deploykit.train.options import TrainOptions
    from deploykit.train.pixels import Pixels


def bare_epochs(
    net: nn.Module, images: Tensor, labels: Tensor, options: TrainOptions, pixels: Pixels | None
) -> Iterator[float]:
    """Each step of this iterator trains an epoch and gives its mean loss.

    Args:
        net: trained in place.
        images: shape [N, C, H, W].
        labels: shape [N].
        options: of SGD, the batch and the precision.
        pixels: of images to be augmented, by the function that our loop has too; or `None`.
    """
    size, steps = options.batch_size, len(images) // options.batch_size
    half = options.precision == "bfloat16"
    net = net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # missing in torch's stubs
    sgd = torch.optim.SGD(
        net.parameters(), options.learning_rate, options.momentum,
        weight_decay=options.weight_decay, nesterov=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        sgd, options.learning_rate, total_steps=options.epochs * steps
    )
    for epoch in range(options.epochs):
        total = 0.0
        order = torch.randperm(len(images))
        for number in range(steps):
            rows = order[number * size : (number + 1) * size]
            inputs = images[rows]
            if pixels is not None:
                inputs = augment(inputs, options, pixels, Draws.of(epoch, number, total=size))
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outputs = net(inputs)
                loss = F.cross_entropy(
                    outputs, labels[rows], label_smoothing=options.label_smoothing
                )
            sgd.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            sgd.step()
            schedule.step()
            total += loss.item()
        yield total / steps
