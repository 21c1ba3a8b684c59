"""Make a network separable, end to end: load, choose, split, fit, distil, judge, hand over.

Layers are chosen by the runtime's figures, and what is handed over was measured beside what was
given. The network that was given teaches the split one, beside the labels. No normalisation is put
between the two new layers: behind the second there is one already where the network has one, and
one between would, in training, scale apart by each batch's own figures what was fitted together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.compress.separable.options import SeparableOptions
from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
from deploykit.flow.accuracy import are_classes, labels_type
from deploykit.flow.cache import FOLDER_NAME
from deploykit.flow.folders import check_free
from deploykit.flow.given import recipe_given, training_data
from deploykit.flow.prune.tune import Tuning, judgeable, tune_options
from deploykit.flow.rebuild import load_model
from deploykit.flow.separable.loop import soft_targets
from deploykit.flow.separable.samples import Samples
from deploykit.flow.separable.work import OURS, SeparableResult, Work
from deploykit.flow.splits import open_splits
from deploykit.flow.tables import options_from
from deploykit.flow.train import with_weights
from deploykit.flow.verify import parity_sizes, real_feeds
from deploykit.load.sources import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import Model
    from deploykit.flow.separable.request import SeparableRequest
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Data
    from deploykit.load.recipe import Recipe

__all__ = ["SeparableResult", "run_separable"]

_EPOCHS_SHARE = 2
"""Training takes half of the epochs that the network's own took: more is lost than by pruning."""


def run_separable(request: SeparableRequest, progress: Progress = silent) -> SeparableResult:
    """Do all of it. The network that was given is not changed.

    Raises:
        BadInputError: anything about the source, options or data that cannot be used, or there is
            nothing to split.
        CheckFailedError: it cannot help here: no layer gets faster, or the whole does not, or it
            loses more accuracy than allowed. Nothing is written.
        EnvironmentFailedError: it cannot be written or measured.
    """
    options = options_from(request.changes, SeparableOptions, "separable")
    check_free(request.out, overwrite=request.overwrite, ours=OURS)
    recipe = recipe_given(request.source.text, "splitting", as_stage=request.as_stage)
    splits = open_splits(request.val, request.eval, recipe)
    if request.max_drop is not None and not judgeable(splits.val):
        raise BadInputError("max_drop needs data with labels to judge by; add --val DATA")
    home = (recipe.folder if recipe else request.out.absolute().parent) / FOLDER_NAME
    learnt = training_data(request.train, recipe)
    tuning = _tuning(request, recipe, learnt, splits, home)
    progress("loading the network", None)
    source = resolve(request.source)
    if recipe is not None:
        source = with_weights(source, recipe, progress)
    model = load_model(source)
    for data in (*splits.named.values(), learnt):  # what does not fit is told before the long work
        if data is not None:
            real_feeds(model.inputs, parity_sizes(model.inputs)[0], data)
    work = Work(
        request=request,
        options=options,
        model=model,
        source=source,
        splits=splits,
        samples=_samples(learnt, model, options),
        tuning=tuning and replace(tuning, teacher=model),
        home=home,
        progress=progress,
    )
    return work.run()


def _samples(data: Data | None, model: Model, options: SeparableOptions) -> Samples | None:
    if data is None or not options.refit:
        return None
    return Samples.drawn(data, model, options.samples, options.seed)


def _tuning(
    request: SeparableRequest,
    recipe: Recipe | None,
    data: Data | None,
    splits: Splits,
    home: Path,
) -> Tuning | None:
    """How to train; `None` where nobody wants it, or there is no data.

    Raises:
        BadInputError: data to learn from without data to judge by, or without labels; or options
            without data.
    """
    if not request.finetune:
        return None
    if data is None:
        asked = ", ".join(sorted(request.tuning.keys() - {"seed"}))
        if asked:
            raise BadInputError(f"{asked}: there is nothing to train on; add --train DATA")
        return None
    if splits.val is None:
        raise BadInputError("training needs data to judge by; add --val DATA, or --no-finetune")
    for split in (data, splits.val):
        if labels_type(split) is None:
            raise BadInputError(
                f"{split.name} has no labels, and training needs them; add --no-finetune"
            )
    options = tune_options(
        dict(recipe.train) if recipe else {}, request.tuning, shorter_by=_EPOCHS_SHARE
    )
    soft = soft_targets(request) if are_classes(labels_type(data)) else None
    return Tuning(data, splits.val, options, home / "separable", soft)
