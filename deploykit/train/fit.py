"""Whether a network takes the data, and in which layout in memory: tried before training."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deploykit.core.errors import BadInputError
from deploykit.train.samples import Samples

if TYPE_CHECKING:
    from deploykit.load.data import Data


def layout_for(module: nn.Module, data: Data, val: Data) -> torch.memory_format:
    """The fastest layout that the network takes.

    Channels last is what convolutions on CPUs and GPUs are fastest in. A network that takes rows
    of images for vectors with `view` needs the order of the declared dimensions, though.

    Args:
        module: not changed.
        data: what will be learnt from; two samples of it are tried, in evaluation mode.
        val: what it will be judged on; likewise.

    Raises:
        BadInputError: the data does not fit the network; the message has torch's reason.
    """
    net = deepcopy(module).cpu().eval()
    for split in (data, val):
        inputs = _inputs(split)
        try:
            _call(net, inputs)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            shapes = ", ".join(str(list(part.shape[1:])) for part in inputs)
            raise BadInputError(
                f"{split.name} (batches of samples of shape {shapes}) does not fit the network: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}"
            ) from error
    try:
        last = torch.channels_last
        _call(net.to(memory_format=last), tuple(in_layout(part, last) for part in _inputs(data)))  # type: ignore[call-overload]  # missing in torch's stubs
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def in_layout(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """The same values in that layout; only images, [N, C, H, W], have a choice of it."""
    if tensor.dim() != 4:
        return tensor
    placed = tensor.contiguous(memory_format=layout)
    if layout is torch.contiguous_format:
        # One channel lies alike in both layouts, and convolutions go by strides: state them anew.
        return placed.flatten().view(placed.shape)
    return placed


def _inputs(data: Data) -> tuple[Tensor, ...]:
    """A batch of two: one of a single sample is alike in every layout."""
    return Samples.first(data, 2)[:-1]


def _call(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    with torch.inference_mode():
        net(*inputs)
