"""Fine-tune a cut network, and say how good it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeGuard

from deploykit.check.accuracy import accuracy
from deploykit.check.metrics import metric_named
from deploykit.compress.distill.options import DistillOptions
from deploykit.core.errors import BadInputError
from deploykit.flow.accuracy import are_classes, labels_type, usual_metric
from deploykit.flow.tables import options_from
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.check.accuracy import Accuracy
    from deploykit.core.progress import Progress
    from deploykit.core.types import Model, Option
    from deploykit.flow.prune.request import PruneRequest
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Array, Data
    from deploykit.load.recipe import Recipe
    from deploykit.train.loop import TrainResult
    from deploykit.train.objective import Loss

_EPOCHS_SHARE = 4
"""Fine-tuning takes a quarter of the epochs that training took ..."""
_RATE_SHARE = 4
"""... at a quarter of its highest rate, where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How cut networks recover.

    Attributes:
        data: to learn from.
        val: that the best epoch is chosen by.
        options: of one round.
        folder: of checkpoints.
        soft: how much a teacher counts, or `None` for labels alone.
        teacher: the network that was given, as soon as it is loaded.
    """

    data: Data
    val: Data
    options: TrainOptions
    folder: Path
    soft: DistillOptions | None = None
    teacher: Model | None = None

    def tuned(self, model: Model, progress: Progress) -> tuple[Model, TrainResult]:
        """The network after training, and how that went."""
        from deploykit.train.loop import train

        loss, loss_key = self._loss()
        result = train(
            model.module,
            self.data,
            self.val,
            self.options,
            folder=self.folder,
            loss=loss,
            loss_key=loss_key,
            progress=progress,
        )
        return replace(model, module=result.module), result

    def _loss(self) -> tuple[Loss | None, str]:
        """What is minimised where there is a teacher, and its name."""
        if self.soft is None or self.teacher is None:
            return None, ""
        from deploykit.compress.distill.loss import taught
        from deploykit.load.modules import state_digest

        teacher = self.teacher.module
        return taught(teacher, self.soft), f"{self.soft} {state_digest(teacher)}"


def tuning_of(
    request: PruneRequest, recipe: Recipe | None, data: Data | None, splits: Splits, folder: Path
) -> Tuning | None:
    """How to fine-tune; `None` where nothing was asked for and there is no data.

    Args:
        request: what was asked for.
        recipe: whose training is taken up, or `None`.
        data: to learn from, or `None`.
        splits: to judge by.
        folder: of checkpoints.

    Raises:
        BadInputError: data to learn from without data to judge by, options without data, or
            labels that are no classes.
    """
    if not request.finetune:
        return None
    if data is None:
        asked = sorted(request.tuning.keys() - {"seed"})
        if request.distill:
            asked.append("distill")
        if asked:
            said = ", ".join(asked)
            raise BadInputError(f"{said}: there is nothing to fine-tune on; add --train DATA")
        return None
    if splits.val is None:
        raise BadInputError("fine-tuning needs data to judge by; add --val DATA")
    for split in (data, splits.val):
        _check_classes(split)
    options = tune_options(dict(recipe.train) if recipe else {}, request.tuning)
    soft = DistillOptions(request.distill, request.temperature) if request.distill else None
    return Tuning(data, splits.val, options, folder, soft)


def _check_classes(data: Data) -> None:
    labels = labels_type(data)
    if not are_classes(labels):
        has = "no labels" if labels is None else f"labels of type {labels}"
        raise BadInputError(
            f"{data.name} has {has}, and fine-tuning learns classes, which are whole numbers; "
            "prune without it: --no-finetune"
        )


def tune_options(
    table: Mapping[str, Option], changes: Mapping[str, Option], *, shorter_by: int = _EPOCHS_SHARE
) -> TrainOptions:
    """The recipe's training, shorter by a factor and gentler, with changes that win."""
    trained = options_from(table, TrainOptions, "[train]")
    shorter: dict[str, Option] = {
        "epochs": max(1, round(trained.epochs / shorter_by)),
        "learning_rate": trained.learning_rate / _RATE_SHARE,
        "count_start": True,
    }
    return options_from({**table, **shorter, **changes}, TrainOptions, "fine-tuning")


def judged(model: Model, data: Data, metric: str, progress: Progress) -> Accuracy:
    """How good a network is in eager PyTorch."""
    from deploykit.load.calls import run_module

    def run(fed: Mapping[str, Array]) -> list[Array]:
        return list(run_module(model.module, model.inputs, fed).values())

    chosen = metric_named(metric or usual_metric(data))
    return accuracy(run, data, model.inputs, chosen, progress=progress)


def judgeable(data: Data | None) -> TypeGuard[Data]:
    """Whether there are labels to judge by."""
    return labels_type(data) is not None
