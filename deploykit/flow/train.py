"""Train the network of a recipe and put its weights where the recipe says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.core.extras import extra
from deploykit.core.processes import is_main
from deploykit.core.progress import Progress, silent
from deploykit.flow.cache import FOLDER_NAME
from deploykit.flow.tables import options_from
from deploykit.load.datasets import open_data
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import load_source
from deploykit.load.sources import Source
from deploykit.load.weights import write_weights
from deploykit.nets.seeding import initial_weights
from deploykit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.core.types import Option
    from deploykit.load.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Trained:
    """What training left.

    Attributes:
        weights: the file.
        val_score: on the validation split, the share of right answers, 0 to 1, or the loss with
            its sign turned.
        val_metric: "accuracy" or "loss", whichever that is.
        epochs: how many were trained.
        seconds: that took.
    """

    weights: Path
    val_score: float
    val_metric: str
    epochs: int
    seconds: float


def train_options(recipe: Recipe, changes: Mapping[str, Option]) -> TrainOptions:
    """The recipe's table [train] with changes that win over it, checked.

    Raises:
        BadInputError: an unknown key (with the nearest), or a value that cannot be.
    """
    return options_from({**recipe.train, **changes}, TrainOptions, "[train]")


def train_recipe(
    recipe: Recipe,
    *,
    changes: Mapping[str, Option] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Trained:
    """Train from the initial weights that the source builds; a run that was killed goes on.

    Args:
        recipe: with data and a place for weights.
        changes: fields of `TrainOptions` that win over the recipe's.
        overwrite: whether a weights file that is there may be replaced.
        progress: told after every step.

    Raises:
        BadInputError: the recipe cannot be trained, or its weights are there already.
    """
    path = recipe.weights_path
    if path is None or path.suffix != ".safetensors":
        raise BadInputError(
            f'{recipe.folder}: training needs a place: [source] weights = "weights.safetensors"'
        )
    if recipe.plan_paths:
        raise BadInputError(
            f"{recipe.plan_paths[-1].name} has changed this network: train it further with "
            "deploykit compress distill, or prune it again"
        )
    if path.exists() and not overwrite:
        raise BadInputError(f"{path} exists already: add --overwrite to train it anew")
    if not recipe.data.train or not recipe.data.val:
        raise BadInputError(f"{recipe.folder}: training needs [data] train and val")
    options = train_options(recipe, changes or {})
    with extra("compress"):
        from deploykit.train.loop import train
    source = Source(
        text=recipe.source.net,
        inputs=parse_inputs(recipe.source.inputs),
        options=recipe.source.options,
        base=recipe.folder,
    )
    with initial_weights(options.seed):  # what a run that was killed goes on from
        model = load_source(source)
    result = train(
        model.module,
        open_data(recipe.data.train, recipe.folder),
        open_data(recipe.data.val, recipe.folder),
        options,
        folder=recipe.folder / FOLDER_NAME / "train",
        base=recipe.folder,
        progress=progress,
    )
    if is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weights(path, result.module)
    return Trained(path, result.val_score, result.val_metric, len(result.epochs), result.seconds)


def with_weights(source: Source, recipe: Recipe, progress: Progress = silent) -> Source:
    """The source with its weights there: trained on demand where the recipe can.

    Raises:
        BadInputError: the weights are not there and the recipe has no [train].
    """
    path = source.weights
    if path is None or path.exists() or path != recipe.weights_path:
        return source
    if not recipe.train:
        raise BadInputError(f"weights {path} do not exist, and the recipe has no [train]")
    return replace(source, weights=train_recipe(recipe, progress=progress).weights)
