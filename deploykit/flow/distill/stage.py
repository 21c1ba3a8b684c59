"""The stage "distill" of a recipe: what the stages before it left learns from a teacher.

[[stages]]
name = "distill"
teacher = "../teacher"  # or several; without it the recipe's own network, before all stages
hints = ["layer1"]
epochs = 5
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.compress.distill.options import DistillOptions
from deploykit.core.errors import BadInputError, nearest
from deploykit.flow.derived import moved
from deploykit.flow.distill.request import DistillRequest
from deploykit.flow.tables import options_from
from deploykit.load.datasets import open_data
from deploykit.load.recipe import is_recipe, load_recipe
from deploykit.load.sources import Source, resolve
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploykit.core.progress import Progress
    from deploykit.core.types import Option
    from deploykit.load.recipe import Recipe

NAME = "distill"
_TEXTS = ("unlabelled", "metric")
_OWN = ("teacher", "anew", *_TEXTS)


def distill_request(
    stage: Mapping[str, Option], recipe: Recipe, whole: Source, source: Source, out: Path
) -> DistillRequest:
    """Sort the keys of a stage to the options that they belong to.

    Args:
        stage: its table.
        recipe: that it stands in; paths lead from there.
        whole: the recipe's network before all stages.
        source: what the stages before this one left.
        out: the folder to make.

    Raises:
        BadInputError: an unknown key (with the nearest), or a value that cannot be.
    """
    where = f"stage {NAME}"
    table = {key: value for key, value in stage.items() if key not in {"name", *_OWN}}
    names = [{field.name for field in fields(kind)} for kind in (DistillOptions, TrainOptions)]
    known = names[0] | names[1] | set(_OWN)
    for key in table:
        if key not in known:
            raise BadInputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    taught, training = ({k: v for k, v in table.items() if k in some} for some in names)
    options_from(taught, DistillOptions, where)
    options_from(training, TrainOptions, where)
    unlabelled, metric = (_text(stage, key) for key in _TEXTS)
    if unlabelled:
        unlabelled = moved(unlabelled, recipe.folder, Path())
    anew = stage.get("anew", False)
    if not isinstance(anew, bool):
        raise BadInputError(f"{where}: anew must be true or false, not {anew!r}")
    first, *others = _teachers(stage, recipe, whole)
    return DistillRequest(
        student=source,
        teacher=first,
        out=out,
        others=tuple(others),
        changes=taught,
        tuning=training,
        anew=anew,
        unlabelled=unlabelled,
        metric=metric,
        overwrite=True,
        as_stage=True,
    )


def _text(stage: Mapping[str, Option], key: str) -> str:
    value = stage.get(key, "")
    if not isinstance(value, str):
        raise BadInputError(f"stage {NAME}: {key} must be a text, not {value!r}")
    return value


def _teachers(stage: Mapping[str, Option], recipe: Recipe, whole: Source) -> list[Source]:
    said = stage.get("teacher", "")
    texts = list(said) if isinstance(said, tuple | list) else [said]
    if not all(isinstance(text, str) for text in texts) or (len(texts) > 1 and "" in texts):
        raise BadInputError(f"stage {NAME}: teacher must name networks, not {said!r}")
    if texts == [""] or not texts:
        if recipe.stages and recipe.stages[0] is stage:
            raise BadInputError(
                f"stage {NAME} stands first, so that its teacher would be its student: name one, "
                'such as teacher = "../teacher"'
            )
        return [whole]
    return [
        replace(whole, text=moved(str(text), recipe.folder, Path()), weights=None, options={})
        for text in texts
    ]


def distill_key(request: DistillRequest, progress: Progress) -> list[object]:
    """What the result of a stage depends on beside its table and its student.

    Teachers that are recipes without weights are trained for it.

    Raises:
        BadInputError: a teacher cannot be loaded or trained, or there is no such data.
    """
    from deploykit.flow.rebuild import load_model
    from deploykit.flow.train import with_weights

    found: list[object] = []
    for teacher in request.teachers:
        source = resolve(teacher)
        if is_recipe(teacher.text):
            source = with_weights(source, load_recipe(Path(teacher.text)), progress)
        found.append(load_model(source).history)
    if request.unlabelled:
        found.append(open_data(request.unlabelled).digest())
    return found
