"""The recipe of a network made from another: that one's, with weights, and plans, of its own.

It names the network that was whole, however often it was changed: the first plan is of that one,
and the folders that were made on the way can go.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.flow.folders import PLAN_NAME, WEIGHTS_NAME
from deploykit.load.datasets import NAMED
from deploykit.load.inputs import input_text
from deploykit.load.recipe import FILE_NAME, RECIPE, DataTable, Recipe, is_recipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.core.types import Option
    from deploykit.load.sources import Source

_NAMED = frozenset(name for name, _ in NAMED)


def recipe_text(
    source: Source,
    out: Path,
    *,
    plans: Sequence[str] = (PLAN_NAME,),
    tables: Mapping[str, Mapping[str, Option]] | None = None,
) -> str:
    """TOML that `load_recipe` reads from `out`.

    Args:
        source: what it was made from, as it was named.
        out: the folder of the recipe; links on the way to it are followed, as the system does
            with the paths in it.
        plans: names of the plans that lie there, in order.
        tables: "data" and "train" of a source that has no recipe; data as it is found from here.
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
    plan: dict[str, Option] = {"plan": plans[0] if len(plans) == 1 else tuple(plans)}
    own_files: dict[str, Option] = {**(plan if plans else {}), "weights": WEIGHTS_NAME}
    written: dict[str, Mapping[str, Option]] = {
        "source": {"net": net, **own_files},
        "source.options": options,
    }
    if inputs:
        written["source"] = {**written["source"], "inputs": inputs}
    said = {"schema": RECIPE.name, "version": RECIPE.version}
    if recipe is not None and recipe.source.plan and recipe.whole is None:
        written |= _own_tables(recipe, out)
        said |= {"task": recipe.task} if recipe.task else {}
    if recipe is None and tables:
        data = tables.get("data", {})
        found = {name: moved(str(text), Path(), out) for name, text in data.items() if text}
        written |= {**tables, "data": found}
    return (
        "\n\n".join([_lines(said), *(_table(*pair) for pair in written.items() if pair[1])]) + "\n"
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
