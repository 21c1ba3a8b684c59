"""The recipe of a pruned network: the whole one's, with a plan and weights of its own.

It names the network that was whole, however often it was pruned: a plan is of that one, and what
was pruned on the way can go.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.flow.prune.record import PLAN_NAME, WEIGHTS_NAME
from deploykit.load.datasets import NAMED
from deploykit.load.inputs import input_text
from deploykit.load.recipe import FILE_NAME, RECIPE, DataTable, Recipe, is_recipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploykit.core.types import Option
    from deploykit.load.sources import Source

_NAMED = frozenset(name for name, _ in NAMED)


def recipe_text(source: Source, out: Path) -> str:
    """TOML that `load_recipe` reads from `out`.

    Args:
        source: what was pruned, as it was named.
        out: the folder of the recipe; links on the way to it are followed, as the system does
            with the paths in it.
    """
    recipe = load_recipe(Path(source.text)) if is_recipe(source.text) else None
    inputs = tuple(input_text(spec) for spec in source.inputs)
    options = dict(source.options)
    if recipe is None:
        net = moved(source.text, Path(), out)
    elif not recipe.source.plan:
        net = _relative(Path(source.text), out)
    else:
        own = recipe.source
        net = _relative(recipe.whole, out) if recipe.whole else moved(own.net, recipe.folder, out)
        inputs, options = inputs or own.inputs, {**own.options, **options}
    tables: dict[str, Mapping[str, Option]] = {
        "source": {"net": net, "plan": PLAN_NAME, "weights": WEIGHTS_NAME},
        "source.options": options,
    }
    if inputs:
        tables["source"] = {**tables["source"], "inputs": inputs}
    said = {"schema": RECIPE.name, "version": RECIPE.version}
    if recipe is not None and recipe.source.plan and recipe.whole is None:
        tables |= _own_tables(recipe, out)
        said |= {"task": recipe.task} if recipe.task else {}
    return (
        "\n\n".join([_lines(said), *(_table(*pair) for pair in tables.items() if pair[1])]) + "\n"
    )


def _own_tables(recipe: Recipe, out: Path) -> dict[str, Mapping[str, Option]]:
    """What a recipe says beside its source."""
    texts = {field.name: getattr(recipe.data, field.name) for field in fields(DataTable)}
    return {
        "data": {name: moved(text, recipe.folder, out) for name, text in texts.items() if text},
        "train": recipe.train,
        "export": recipe.export,
    }


def _table(name: str, table: Mapping[str, Option]) -> str:
    return f"[{name}]\n{_lines(table)}"


def _lines(table: Mapping[str, Option]) -> str:
    return "\n".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()
    )


def moved(text: str, base: Path, out: Path) -> str:
    """A source or data at a path from `base`, as it is found from `out`; other names stay."""
    ends = sorted((end for mark in ":?[" if (end := text.rfind(mark)) > 0), reverse=True)
    for end in (len(text), *ends):
        place, rest = base / text[:end], text[end:]
        named = text[:end] in _NAMED or (place.is_dir() and rest.startswith(":"))
        if place.exists() and not named:
            return _relative(place, out) + rest
    return text


def _relative(path: Path, start: Path) -> str:
    if path.name == FILE_NAME:
        path = path.parent
    return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
