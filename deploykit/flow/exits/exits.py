"""Adding exits, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.exits.options import ExitsOptions
from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
from deploykit.flow.cache import FOLDER_NAME
from deploykit.flow.exits.said import check_labels
from deploykit.flow.exits.work import OURS, ExitsResult, Work
from deploykit.flow.folders import check_free
from deploykit.flow.given import recipe_given, training_data
from deploykit.flow.plans import check_no_exits
from deploykit.flow.prune.tune import tune_options
from deploykit.flow.rebuild import load_model
from deploykit.flow.splits import open_splits
from deploykit.flow.tables import options_from
from deploykit.flow.train import with_weights
from deploykit.flow.verify import parity_sizes, real_feeds
from deploykit.load.sources import resolve

if TYPE_CHECKING:
    from deploykit.core.types import Option
    from deploykit.flow.exits.request import ExitsRequest

__all__ = ["ExitsResult", "run_exits"]

_EPOCHS_SHARE = 2
"""Joint training takes half of the epochs that the network's own took."""


def run_exits(request: ExitsRequest, progress: Progress = silent) -> ExitsResult:
    """Do all of it. The network that was given is not changed.

    Raises:
        BadInputError: anything about the source, options or data that cannot be used.
        CheckFailedError: training left the numbers.
        EnvironmentFailedError: it cannot be written or measured.
    """
    options = options_from(request.changes, ExitsOptions, "exits")
    check_free(request.out, overwrite=request.overwrite, ours=OURS)
    recipe = recipe_given(request.source.text, "adding exits", as_stage=request.as_stage)
    splits = open_splits(request.val, request.eval, recipe)
    home = (recipe.folder if recipe else request.out.absolute().parent) / FOLDER_NAME
    learnt = training_data(request.train, recipe)
    if learnt is None or splits.val is None:
        missing = "--train DATA" if learnt is None else "--val DATA"
        raise BadInputError(f"exits are trained and thresholds solved on data: add {missing}")
    for data in (learnt, *splits.named.values()):
        check_labels(data)
    changes: dict[str, Option] = {"seed": options.seed, **request.tuning}
    if options.frozen and recipe is not None and "learning_rate" in recipe.train:
        # Heads start from nothing, and nothing else learns.
        changes = {"learning_rate": recipe.train["learning_rate"], **changes}
    training = tune_options(dict(recipe.train) if recipe else {}, changes, shorter_by=_EPOCHS_SHARE)
    progress("loading the network", None)
    source = resolve(request.source)
    if recipe is not None:
        source = with_weights(source, recipe, progress)
    check_no_exits(source, "adding exits")
    model = load_model(source)
    for data in (*splits.named.values(), learnt):  # what does not fit is told before the long work
        real_feeds(model.inputs, parity_sizes(model.inputs)[0], data)
    return Work(
        request=request,
        options=options,
        training=training,
        model=model,
        source=source,
        splits=splits,
        train=learnt,
        home=home,
        progress=progress,
    ).run()
