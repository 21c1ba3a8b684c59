"""The stages of a recipe: what happens to a network between loading and export, and after it.

Each finished stage is a folder beside the recipe, named by everything that it depends on, and is
itself a source, so that the next stage takes it from there. The stage "quantize" works on ONNX: it
is the last one, and runs after export.
"""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError, nearest
from deploykit.core.report import Report, Verdict
from deploykit.flow.cache import FOLDER_NAME, key_of
from deploykit.flow.derived import moved
from deploykit.flow.distill.stage import distill_key, distill_request
from deploykit.flow.exits.stage import exits_request
from deploykit.flow.folders import REPORT_NAME
from deploykit.flow.precision import STAGE, lower_of
from deploykit.flow.separable.stage import separable_request
from deploykit.flow.tables import options_from
from deploykit.load.datasets import open_data
from deploykit.load.recipe import FILE_NAME
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploykit.core.progress import Progress
    from deploykit.core.types import Option
    from deploykit.flow.prune.request import PruneRequest
    from deploykit.load.recipe import Recipe

    Stages = tuple[Mapping[str, Option], ...]

PRUNE, SEPARABLE, DISTILL, EXITS, QUANTIZE = "prune", "separable", "distill", "exits", "quantize"
NAMES = (PRUNE, SEPARABLE, DISTILL, EXITS, QUANTIZE)


def check_stages(recipe: Recipe) -> None:
    """Refuse what no stage understands, before any work is done.

    Raises:
        BadInputError: an unknown stage or key (with the nearest), or a value that cannot be.
    """
    for stage in recipe.stages:
        name = str(stage.get("name", ""))
        if name not in NAMES:
            raise BadInputError(
                f"{recipe.folder}: there is no stage {name!r} in deploykit "
                f"{__version__}{nearest(name, NAMES)}"
            )
        if name == PRUNE:
            _request(stage, Source(""), recipe.folder)
        if name == SEPARABLE:
            separable_request(stage, Source(""), recipe.folder)
        if name == EXITS:
            exits_request(stage, Source(""), recipe.folder)
        if name == DISTILL:
            distill_request(stage, recipe, Source(""), Source(""), recipe.folder)
    before, after = _split(recipe)
    for stage, later in pairwise(before):
        if stage["name"] == EXITS:
            raise BadInputError(
                f"{recipe.folder}: stage {later['name']!r} stands after exits, which are added to "
                "a finished network: put exits behind it"
            )
    if len(after) > 1:
        raise BadInputError(
            f"{recipe.folder}: stage {after[1]['name']!r} stands after quantize, which works on "
            "the exported file: put quantize last, and once"
        )
    if (table := quantize_table(recipe)) is not None:
        lower_of(table, STAGE)


def quantize_table(recipe: Recipe) -> Mapping[str, Option] | None:
    """The stage "quantize", or `None` where there is none.

    Its data is named as it is found from here; without its own it takes the recipe's training
    data.
    """
    after = _split(recipe)[1]
    if not after:
        return None
    calibrate = after[0].get("calibrate", recipe.data.train)
    if not isinstance(calibrate, str) or not calibrate:
        return after[0]
    return {**after[0], "calibrate": moved(calibrate, recipe.folder, Path())}


def _split(recipe: Recipe) -> tuple[Stages, Stages]:
    """The stages before export, and those from "quantize" on."""
    names = [stage.get("name") for stage in recipe.stages]
    place = names.index(QUANTIZE) if QUANTIZE in names else len(names)
    return recipe.stages[:place], recipe.stages[place:]


def staged(recipe: Recipe, source: Source, progress: Progress) -> Source:
    """The source after all stages before export; those that are finished are not done again.

    Raises:
        CheckFailedError: a stage did not reach what it was asked for.
    """
    before = _split(recipe)[0]
    data = _data_digest(recipe) if before else {}
    whole = source
    for number, stage in enumerate(before):
        progress(f"stage {number + 1} of {len(recipe.stages)}: {stage['name']}", None)
        others: list[object] = [data, recipe.train]
        if stage["name"] == DISTILL:
            asked = distill_request(stage, recipe, whole, source, recipe.folder)
            others += distill_key(asked, progress)
        key = _key(stage, source, others)
        out = recipe.folder / FOLDER_NAME / "stages" / f"{stage['name']}-{key}"
        if not (out / FILE_NAME).is_file():
            _run(stage, recipe, whole, source, out=out, progress=progress)
        _check_passed(out)
        source = Source(str(out), inputs=source.inputs, trust=source.trust)
    return source


def _run(
    stage: Mapping[str, Option],
    recipe: Recipe,
    whole: Source,
    source: Source,
    *,
    out: Path,
    progress: Progress,
) -> None:
    """One stage; `whole` is the network before all of them."""
    if stage["name"] == DISTILL:
        from deploykit.flow.distill.distill import run_distill

        run_distill(distill_request(stage, recipe, whole, source, out), progress)
        return
    if stage["name"] == SEPARABLE:
        from deploykit.flow.separable.separable import run_separable

        run_separable(separable_request(stage, source, out), progress)
        return
    if stage["name"] == EXITS:
        from deploykit.flow.exits.exits import run_exits

        run_exits(exits_request(stage, source, out), progress)
        return
    from deploykit.flow.prune.prune import run_prune

    run_prune(_request(stage, source, out), progress)


def _key(stage: Mapping[str, Option], source: Source, others: object) -> str:
    """Of everything that a stage depends on."""
    from deploykit.flow.rebuild import load_model

    return key_of(__version__, load_model(source).history, stage, others)[:16]


def _data_digest(recipe: Recipe) -> dict[str, str]:
    """SHA-256, in hex, of what stages may learn from, and judge and report by."""
    texts = {field.name: getattr(recipe.data, field.name) for field in fields(recipe.data)}
    return {name: open_data(text, recipe.folder).digest() for name, text in texts.items() if text}


def _check_passed(out: Path) -> None:
    report = records.load(out / REPORT_NAME, Report, records.REPORT)
    for check in report.checks:
        if check.verdict is not Verdict.PASSED:
            value = "" if check.value is None else f" is {check.value:.4g} {check.unit}".rstrip()
            limit = "" if check.limit is None else f", asked for {check.limit:.4g}"
            advice = f": {check.advice}" if check.advice else ""
            raise CheckFailedError(
                f"{check.name}{value}{limit}{advice}; {out} has what was reached"
            )


def _request(stage: Mapping[str, Option], source: Source, out: Path) -> PruneRequest:
    """Sort the keys of a stage to the options that they belong to."""
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.flow.prune.loop import PruneLoop
    from deploykit.flow.prune.request import PruneRequest
    from deploykit.train.options import TrainOptions

    table = {key: value for key, value in stage.items() if key != "name"}
    kinds = (PruneLoop, PruneOptions, TrainOptions)
    names = [{f.name for f in fields(kind)} for kind in kinds]
    known = set().union(*names)
    for key in table:
        if key not in known:
            raise BadInputError(f"stage prune: unknown key {key!r}{nearest(key, known)}")
    own, pruning, training = ({k: v for k, v in table.items() if k in n} for n in names)
    loop = options_from(own, PruneLoop, "stage prune")
    options_from(pruning, PruneOptions, "stage prune")
    options_from(training, TrainOptions, "stage prune")
    values = {f.name: getattr(loop, f.name) for f in fields(PruneLoop)}
    return PruneRequest(source, out, pruning, training, overwrite=True, as_stage=True, **values)
