"""What a command that makes a network smaller is given: its recipe, and data to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.load.artifacts import is_onnx
from deploykit.load.datasets import open_data
from deploykit.load.recipe import Recipe, is_recipe, load_recipe
from deploykit.load.sources import check_form

if TYPE_CHECKING:
    from deploykit.load.data import Data


def recipe_given(text: str, doing: str, *, as_stage: bool) -> Recipe | None:
    """A source's recipe, or `None` where it is a plain one.

    Args:
        text: the source.
        doing: what shall happen to it, such as "pruning", for errors.
        as_stage: whether a stage of that very recipe asks.

    Raises:
        BadInputError: it is no PyTorch network, or a recipe with stages of its own.
    """
    if is_onnx(text):
        raise BadInputError(f"{text} is an ONNX file: {doing} needs the PyTorch network")
    if not is_recipe(text):
        check_form(text)
        return None
    recipe = load_recipe(Path(text))
    if recipe.stages and not as_stage:
        raise BadInputError(
            f"{text} has stages of its own, which export runs: deploykit export {text}, or take "
            "[[stages]] out"
        )
    return recipe


def training_data(train: str, recipe: Recipe | None) -> Data | None:
    """What a network learns from; `None` where nobody names any.

    Args:
        train: as it was asked for, or "".
        recipe: that may name it.
    """
    if train:
        return open_data(train)
    return open_data(recipe.data.train, recipe.folder) if recipe and recipe.data.train else None
