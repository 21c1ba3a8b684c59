"""The recipe of a pruned network: the whole one's, with a plan and weights of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.flow.prune_record import PLAN_NAME, WEIGHTS_NAME
from deploykit.load.inputs import input_text
from deploykit.load.recipe import RECIPE, is_recipe, load_recipe

if TYPE_CHECKING:
    from deploykit.load.sources import Source


def recipe_text(source: Source, out: Path) -> str:
    """TOML that `load_recipe` reads from `out`."""
    lines = [f'schema = "{RECIPE.name}"', f'version = "{RECIPE.version}"', "", "[source]"]
    lines.append(f"net = {json.dumps(_net(source, out))}")
    lines += [f'plan = "{PLAN_NAME}"', f'weights = "{WEIGHTS_NAME}"']
    if source.inputs:
        lines.append(f"inputs = {json.dumps([input_text(spec) for spec in source.inputs])}")
    if source.options:
        lines += ["", "[source.options]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in source.options.items()]
    return "\n".join(lines) + "\n"


def _net(source: Source, out: Path) -> str:
    """The source as it is found from the new recipe; of a pruned one, that of the whole."""
    if is_recipe(source.text):
        folder = Path(source.text) if Path(source.text).is_dir() else Path(source.text).parent
        recipe = load_recipe(folder)
        return _relative(recipe.folder if recipe.source.plan else folder, out)
    place, _, name = source.text.rpartition(":")
    if place.endswith(".py"):
        return f"{_relative(Path(place), out)}:{name}"
    return source.text


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path.absolute(), start.absolute())).as_posix()
