"""The exponential moving average of the weights of all steps.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J.
Control Optim. 30(4), 1992; in this form, with a share that grows from the first steps on,
TensorFlow's `ExponentialMovingAverage(num_updates)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(net: nn.Module, most: float) -> AveragedModel:
    """The mean of a network's weights, which follows by `update_parameters(net)` after each step.

    Step n keeps min(most, (1 + n) / (10 + n)) of the mean before it, so that the weights that
    training began with are soon forgotten. Statistics of batch normalisation are averaged too;
    whole numbers are those of the last step.

    Args:
        net: copied.
        most: the share that is kept in the long run, above 0 and below 1.
    """

    @torch.no_grad()
    def follow(means: list[Tensor], now: list[Tensor], steps: Tensor | int) -> None:
        kept = min(most, (1 + int(steps)) / (10 + int(steps)))
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, now, 1 - kept)
        else:
            for mean, value in zip(means, now, strict=True):
                mean.copy_(value)

    found = AveragedModel(net, multi_avg_fn=follow, use_buffers=True)  # type: ignore[arg-type]  # torch's stubs let items be None
    return found.requires_grad_(requires_grad=False)
