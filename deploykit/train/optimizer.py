"""What turns gradients into steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from torch import nn

    from deploykit.train.options import TrainOptions


def optimizer_for(net: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer that the options name.

    Weight decay is for matrices and kernels; biases and normalisation have none.

    Args:
        net: whose parameters are learnt, those with `requires_grad`.
        options: name, rate, momentum and decay.

    Raises:
        BadInputError: the network has no parameters to train.
    """
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in learnt if parameter.dim() > 1],
            "weight_decay": options.weight_decay,
        },
        {
            "params": [parameter for parameter in learnt if parameter.dim() <= 1],
            "weight_decay": 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise BadInputError("the network has no parameters to train (requires_grad is off for all)")
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.momentum, 0.999))
    return torch.optim.SGD(
        groups,
        lr=options.learning_rate,
        momentum=options.momentum,
        nesterov=options.momentum > 0,
    )
