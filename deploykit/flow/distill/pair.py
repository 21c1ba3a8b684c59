"""Student and teachers, each as it takes the data, tried together before the long work."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deploykit.core.errors import BadInputError
from deploykit.flow.verify import parity_sizes, real_feeds
from deploykit.load.artifacts import is_onnx
from deploykit.load.callables import user_callable
from deploykit.load.calls import refuse_call
from deploykit.load.recipe import Recipe, is_recipe, load_recipe
from deploykit.load.sources import check_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from deploykit.compress.distill.loss import Taught
    from deploykit.compress.distill.options import DistillOptions
    from deploykit.core.types import Model
    from deploykit.load.data import Data
    from deploykit.load.sources import Source
    from deploykit.train.options import TrainOptions
    from deploykit.train.tasks import Own

_TRIED = 2  # samples: norms in training mode take no single one


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What is taught, and by whom.

    Attributes:
        student: as it takes the data.
        teachers: likewise.
        resized: sentences about networks that take images of another size than the data has.
    """

    student: Model
    teachers: tuple[Model, ...]
    resized: tuple[str, ...] = ()


def recipe_of(source: Source, *, as_stage: bool = True) -> Recipe | None:
    """A source's recipe, or `None` where it is a plain one.

    Args:
        source: not resolved.
        as_stage: whether stages of its own are another's business.

    Raises:
        BadInputError: it is nothing that can be trained.
    """
    if is_onnx(source.text):
        raise BadInputError(f"{source.text} is an ONNX file: distillation needs PyTorch networks")
    if not is_recipe(source.text):
        check_form(source.text)
        return None
    recipe = load_recipe(Path(source.text))
    if recipe.stages and not as_stage:
        raise BadInputError(
            f"{source.text} has stages of its own, which export runs: deploykit export "
            f"{source.text}, or take [[stages]] out"
        )
    return recipe


def paired(student: Model, teachers: Sequence[Model], data: Sequence[Data]) -> Pair:
    """Each as it takes the data.

    Where one takes smaller images than another, the data may have the size of either: for the
    other it is resized.

    Raises:
        BadInputError: the data does not fit a network.
    """
    from deploykit.compress.distill.at_size import at_any_size, own_size

    everyone = (student, *teachers)
    sizes = {own_size(model) for model in everyone}
    of_data = {next(iter(one.batch([0]).inputs.values())).shape[2:] for one in data}
    may_resize = len(sizes) > 1 and None not in sizes and of_data <= sizes
    found, said = [], []
    for who, model in zip(("student", *("teacher" for _ in teachers)), everyone, strict=True):
        size = own_size(model)
        if may_resize and size is not None and of_data != {size}:
            found.append(at_any_size(model))
            said.append(f"the {who} takes images of {size[0]}x{size[1]}: others are resized for it")
        else:
            found.append(model)
        for one in data:
            real_feeds(found[-1].inputs, parity_sizes(found[-1].inputs)[0], one)
    return Pair(found[0], tuple(found[1:]), tuple(said))


def tried_loss(
    pair: Pair, options: DistillOptions, training: TrainOptions, data: Data, base: Path
) -> Taught:
    """The loss, after one step without gradients on two samples: what does not fit is told now.

    Raises:
        BadInputError: networks, layers, labels and options do not fit together.
    """
    import torch

    from deploykit.compress.distill.loss import taught
    from deploykit.nets.seeding import initial_weights
    from deploykit.train.objective import Step, Target
    from deploykit.train.samples import Samples
    from deploykit.train.tasks import task_for

    *inputs, labels = Samples.first(data, _TRIED)
    own = None
    if training.loss and ":" in training.loss[0]:
        own = cast("Own", user_callable(training.loss[0], base))
    task = task_for(training, labels, own)
    student, teachers = pair.student.module, [one.module for one in pair.teachers]
    with initial_weights(training.seed):  # of projections
        loss = taught(teachers, options, student=student, inputs=tuple(inputs))
    net = training_copy(student)
    try:
        with torch.no_grad(), initial_weights(training.seed):
            loss(Step(net, tuple(inputs), (Target(labels),), task))
    except Exception as error:  # noqa: BLE001  (users' code raises what it likes)
        refuse_call(error, pair.student.inputs)
    return loss


def training_copy(student: nn.Module) -> nn.Module:
    """A copy in training mode.

    Raises:
        BadInputError: it has no such mode.
    """
    from deploykit.compress.distill.loss import check_trains

    copy = deepcopy(student).train()
    check_trains(copy)
    return copy
