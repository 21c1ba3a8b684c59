"""A student taught by torchdistill: its `DistillationBox` and `KDLoss`, as its examples have them.

The peer's: the loss, both forward passes, SGD, the step. Given to it: the networks, the batches in
our order with our augmentation, mixed precision, and the learning rate of each step, so that the
budget is the same. Its examples decay every parameter; ours leaves biases and norms alone.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from benchmarks.peers import torchdistill_packages
from deploykit.train.augment import augment
from deploykit.train.draws import Draws
from deploykit.train.fit import in_layout
from deploykit.train.pixels import Pixels
from deploykit.train.samples import Batches, InOrder, Samples, loader
from deploykit.train.schedule import learning_rate

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor, nn

    from deploykit.load.data import Data
    from deploykit.train.options import TrainOptions

LAYOUT = torch.channels_last
_JUDGED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Way:
    """How much it teaches.

    Attributes:
        alpha: of the labels; the teacher has the rest.
        temperature: of both networks' outputs.
    """

    alpha: float
    temperature: float


WAYS = {
    "as for ImageNet": Way(alpha=0.5, temperature=1.0),
    "as for CIFAR": Way(alpha=0.9, temperature=4.0),
    "CIFAR's turned round": Way(alpha=0.1, temperature=4.0),
}
"""Of its example configurations of knowledge distillation. (The last: some authors' alpha is what
the teacher has; whoever reads 0.9 so, asks for 0.1.)"""


def taught(
    student: nn.Module,
    teacher: nn.Module,
    splits: tuple[Data, Data],
    options: TrainOptions,
    way: Way,
) -> tuple[nn.Module, float]:
    """The student after the epoch that is best on the validation data, and its share right there.

    Args:
        student: trained in place.
        teacher: in evaluation mode.
        splits: to learn from, and to choose the epoch by.
        options: the budget.
        way: how much it teaches.
    """
    torchdistill_packages.on_path()
    logging.disable(logging.WARNING)  # it tells how it is built
    from torchdistill.core.distillation import get_distillation_box

    data, val = splits
    student, teacher = (net.to(memory_format=LAYOUT) for net in (student, teacher.eval()))  # type: ignore[call-overload]  # missing in torch's stubs
    box = get_distillation_box(
        teacher,
        student,
        dataset_dict={},
        train_config=_config(options, way),
        device=torch.device("cpu"),
        device_ids=None,
        distributed=False,
        lr_factor=1.0,
    )
    pixels, samples = Pixels.of(data.preprocessing), Samples(data)
    order = Batches(len(samples), options.batch_size, options.seed)
    batches = loader(samples, order)
    best, best_score = deepcopy(student.state_dict()), -1.0
    for epoch in range(options.epochs):
        order.begin(epoch)
        box.pre_epoch_process(epoch=epoch)
        for number, (images, labels) in enumerate(batches):
            place, steps = epoch * len(order) + number, options.epochs * len(order)
            for group in box.optimizer.param_groups:
                group["lr"] = learning_rate(options, place, steps)
            draws = Draws.of(options.seed, epoch, number, total=len(images))
            seen = in_layout(augment(images, options, pixels, draws), LAYOUT)
            box.post_forward_process(_loss(box, seen, labels, options))
        box.post_epoch_process()
        score = share_right(student, val)
        if score > best_score:
            best, best_score = deepcopy(student.state_dict()), score
    student.load_state_dict(best)
    return student.eval(), best_score


def _loss(box: Any, images: Tensor, labels: Tensor, options: TrainOptions) -> Tensor:
    enabled = options.precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        found: Tensor = box.forward_process(images, labels, None)
    return found


def share_right(net: nn.Module, data: Data) -> float:
    """Of all samples, 0 to 1, in float32 and evaluation mode."""
    net.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in loader(Samples(data), InOrder(len(data), _JUDGED_AT_ONCE)):
            right += int((net(in_layout(images, LAYOUT)).argmax(dim=1) == labels).sum())
    return right / len(data)


def _config(options: TrainOptions, way: Way) -> dict[str, Any]:
    loss = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": way.temperature,
            "alpha": way.alpha,
            "reduction": "batchmean",
            "label_smoothing": options.label_smoothing,
        },
    }
    sgd = {
        "lr": options.learning_rate,
        "momentum": options.momentum,
        "nesterov": True,
        "weight_decay": options.weight_decay,
    }
    return {
        "num_epochs": options.epochs,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": sgd},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
        },
    }
