"""What a step of training takes in memory, known before the first one.

What a step keeps grows with the batch: the values that layers save for the way back. They are
counted on two samples and on four, so that what does not grow (weights, constants) falls out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deploykit.core.errors import EnvironmentFailedError
from deploykit.core.memory import available
from deploykit.train.objective import Step, Target, labels_alone, total

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploykit.train.options import TrainOptions
    from deploykit.train.tasks import Task

_COPIES = {"sgd": 2, "adamw": 3}
"""Of the weights beside themselves: gradients, and what the optimizer keeps."""
_PASSING = 1.3
"""What a step takes at its peak by what it saves: gradients of values pass by beside them."""
WORKSPACE_BYTES = 50 << 20
"""What the libraries' kernels take for themselves in a first step, whatever its size (measured)."""


@dataclass(frozen=True, slots=True)
class Need:
    """The memory of a step.

    Attributes:
        fixed_bytes: gradients, the optimizer's state, averages, and the libraries' own.
        sample_bytes: more for each sample of a part of a batch.
        all_learn: whether every parameter that can be trained gets a gradient.
    """

    fixed_bytes: int
    sample_bytes: int
    all_learn: bool

    def of(self, samples: int) -> int:
        """Bytes that a part of so many samples takes."""
        return self.fixed_bytes + samples * self.sample_bytes

    def most(self, size_bytes: int) -> int:
        """How many samples fit into so much memory."""
        return max(0, size_bytes - self.fixed_bytes) // max(1, self.sample_bytes)


def need_of(
    net: nn.Module, batch: Callable[[int], tuple[Tensor, ...]], task: Task, options: TrainOptions
) -> Need:
    """What training a network takes, from the labels alone; teachers come on top.

    Args:
        net: a copy that may be changed; on the CPU.
        batch: gives so many samples, inputs and then labels.
        task: what is learnt.
        options: of the training.

    Raises:
        BadInputError: outputs and labels do not fit together.
    """
    net.train()
    saved = [_saved_bytes(net, batch(count), task) for count in (2, 4)]
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]
    weights = sum(parameter.nbytes for parameter in learnt)
    copies = _COPIES[options.optimizer] + (1 if options.average else 0)
    half = 2 if options.precision == "bfloat16" else 1
    return Need(
        fixed_bytes=copies * weights + WORKSPACE_BYTES,
        sample_bytes=round(max(0, saved[1] - saved[0]) / 2 * _PASSING / half),
        all_learn=all(parameter.grad is not None for parameter in learnt),
    )


def _saved_bytes(net: nn.Module, batch: tuple[Tensor, ...], task: Task) -> int:
    """What one step's way back needs, each memory counted once."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step = Step(net, batch[:-1], (Target(batch[-1]),), task)
        loss = total(labels_alone(step))
        size = sum(found.values())
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    return size


def check_room(
    need: Need, samples: int, options: TrainOptions, device: torch.device, processes: int
) -> None:
    """Refuse a batch that does not fit the memory that is left.

    Args:
        need: of a step.
        samples: of the largest part that is calculated at once.
        options: of the training.
        device: that it runs on.
        processes: on this machine, each with a part of its own.

    Raises:
        EnvironmentFailedError: what would fit.
    """
    if device.type == "cuda":
        left, who = torch.cuda.mem_get_info(device)[0], "the GPU has"
    else:
        found = available()
        if found.size_bytes is None:
            return
        left, who = found.size_bytes // processes, found.who
    if need.of(samples) > left:
        raise EnvironmentFailedError(
            f"a step of {samples} samples takes about {_size(need.of(samples))}, and {who} "
            f"{_size(left)} left; {advice(need, samples, options, left)}"
        )


def advice(need: Need, samples: int, options: TrainOptions, left_bytes: int) -> str:
    """A batch that fits, in words.

    Args:
        need: of a step.
        samples: of a part that does not fit.
        options: of the training.
        left_bytes: that a part may take.
    """
    most = min(need.most(left_bytes), samples - 1)
    if most < 1:
        return "not even one sample fits: take a smaller network, or a device with more memory"
    parts = options.accumulate
    while options.batch_size % parts or samples * options.accumulate > most * parts:
        parts += 1
    return f"set accumulate = {parts} (the same batch, in {parts} parts), or batch_size = {most}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"
