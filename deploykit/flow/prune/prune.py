"""Prune, end to end: load, analyse, aim, cut and fine-tune in rounds, judge, hand over.

A stage never measures: what is cut to a latency is chosen here, by figures of the real runtime,
and what is handed over was measured beside what was given. It is never slower.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.compress.prune.options import NEED_DATA, NEED_LABELS, PruneOptions
from deploykit.compress.prune.plan import Plan as PrunePlan
from deploykit.core.errors import BadInputError
from deploykit.core.progress import Progress, silent
from deploykit.flow.cache import FOLDER_NAME
from deploykit.flow.folders import check_free
from deploykit.flow.given import recipe_given, training_data
from deploykit.flow.plans import read_plans
from deploykit.flow.prune.depth import depth_evidence
from deploykit.flow.prune.loop import LatencyAim
from deploykit.flow.prune.tune import judgeable, tuning_of
from deploykit.flow.prune.work import OURS, PruneResult, Work
from deploykit.flow.rebuild import load_model
from deploykit.flow.splits import open_splits
from deploykit.flow.tables import options_from
from deploykit.flow.train import with_weights
from deploykit.flow.verify import parity_sizes, real_feeds
from deploykit.load.sources import resolve

if TYPE_CHECKING:
    from deploykit.compress.prune.choice.evidence import Evidence
    from deploykit.core.types import Model
    from deploykit.flow.prune.request import PruneRequest
    from deploykit.load.data import Data
    from deploykit.load.sources import Source

__all__ = ["PruneResult", "run_prune"]


def run_prune(request: PruneRequest, progress: Progress = silent) -> PruneResult:
    """Do all of it. The network that was given is not changed.

    Raises:
        BadInputError: anything about the source, options or data that cannot be used.
        CheckFailedError: pruning cannot help here: what it would hand over is slower than what it
            was given, or loses more accuracy than allowed. Nothing is written.
        EnvironmentFailedError: it cannot be written or measured.
    """
    options = options_from(request.changes, PruneOptions, "prune")
    check_free(request.out, overwrite=request.overwrite, ours=OURS)
    recipe = recipe_given(request.source.text, "pruning", as_stage=request.as_stage)
    splits = open_splits(request.val, request.eval, recipe)
    if request.max_drop is not None and not judgeable(splits.val):
        raise BadInputError("max_drop needs data with labels to judge by; add --val DATA")
    home = (recipe.folder if recipe else request.out.absolute().parent) / FOLDER_NAME
    learnt = training_data(request.train, recipe)
    tuning = tuning_of(request, recipe, learnt, splits, home / "prune")
    progress("loading the network", None)
    source = resolve(request.source)
    if options.keep_class:
        _check_class_is_there(source)
    if recipe is not None:
        source = with_weights(source, recipe, progress)
    model = load_model(source)
    for data in (*splits.named.values(), learnt):  # what does not fit is told before the long work
        if data is not None:
            real_feeds(model.inputs, parity_sizes(model.inputs)[0], data)
    work = Work(
        request=request,
        options=options,
        aim=LatencyAim.parse(request.latency) if request.latency else None,
        model=model,
        source=source,
        splits=splits,
        tuning=tuning and replace(tuning, teacher=model),
        evidence=_evidence(options, learnt, model, request.source.text),
        on_blocks=depth_evidence(options, learnt, model),
        home=home,
        progress=progress,
    )
    return work.run()


def _check_class_is_there(source: Source) -> None:
    """Refuse a network whose class earlier pruning has left behind.

    Raises:
        BadInputError: it is a graph.
    """
    for path, plan in zip(source.plans, read_plans(source.plans), strict=True):
        if isinstance(plan, PrunePlan) and not plan.keeps_class:
            raise BadInputError(
                f"keep_class: {path.parent} is a graph, pruned without it; prune the whole network"
            )


def _evidence(options: PruneOptions, data: Data | None, model: Model, text: str) -> Evidence | None:
    """What criteria look at that need data.

    Raises:
        BadInputError: there is none.
    """
    from deploykit.compress.prune.choice.evidence import Evidence, class_loss

    if options.criterion not in NEED_DATA:
        return None
    if data is None:
        raise BadInputError(
            f"criterion {options.criterion!r} looks at data, and {text} names none; add "
            "--train DATA, or take l1"
        )
    loss = class_loss if options.criterion in NEED_LABELS else None
    return Evidence(data, model.inputs, loss, samples=options.samples, seed=options.seed)
