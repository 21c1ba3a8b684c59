"""A recipe: one TOML file that says how a network comes to be, from source to artifact.

Only data here; `deploykit.flow` runs it. Paths in a recipe are relative to the recipe. A recipe
carries a schema and a version, by the rule of `deploykit.core.records`; a key that its own
version does not know is an error with the nearest name, since a typing mistake must not pass for
a default.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import msgspec

from deploykit.core.errors import BadInputError, nearest
from deploykit.core.records import Schema, read_bytes
from deploykit.core.types import Option  # noqa: TC001  (msgspec reads the annotations)

RECIPE = Schema("deploykit/recipe")
FILE_NAME = "recipe.toml"


@dataclass(frozen=True, slots=True)
class SourceTable:
    """Where the network comes from.

    Attributes:
        net: a source such as "net.py:build" or "timm:resnet18"; or another recipe, whose network,
            inputs and data this one takes over.
        weights: a `.safetensors`, `.pt` or `.pth` file, or "" where the source brings them.
        plan: what was done to the network that `net` builds, a `plan.json`; or several, in the
            order in which they were done: pruned, then made separable, then pruned again. "" where
            nothing was. The weights are those of what this leads to.
        inputs: declarations such as "x=N[1..64]x3x32x32:float32".
        options: keyword arguments of the callable that builds the network.
    """

    net: str
    weights: str = ""
    plan: str | tuple[str, ...] = ""
    inputs: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataTable:
    """The splits, each a data set in the words of `deploykit.load.datasets`, or "" for none.

    Attributes:
        train: what training sees.
        val: what drives every search and choice.
        eval: what only reports.
    """

    train: str = ""
    val: str = ""
    eval: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe file.

    Attributes:
        source: the network.
        data: the splits.
        task: "classification", "regression", or "" where nobody said.
        train: fields of `deploykit.train.options.TrainOptions`; empty where it is not trained.
        export: fields of `deploykit.export.ExportOptions`.
        stages: what happens between loading and export, in order; each a table with a `name`.
        folder: that its paths lead from. Not part of the record.
        whole: the recipe that the network was taken over from; `None` where it is this one's
            own. Likewise.
    """

    source: SourceTable
    data: DataTable = DataTable()
    task: str = ""
    train: Mapping[str, Option] = field(default_factory=dict)
    export: Mapping[str, Option] = field(default_factory=dict)
    stages: tuple[Mapping[str, Option], ...] = ()
    folder: Path = field(default=Path(), metadata={"in_record": False}, compare=False)
    whole: Path | None = field(default=None, metadata={"in_record": False}, compare=False)

    @property
    def weights_path(self) -> Path | None:
        """The weights file, there or not; `None` where the source brings them."""
        return self.folder / self.source.weights if self.source.weights else None

    @property
    def plan_paths(self) -> tuple[Path, ...]:
        """What was done to the network, in order; empty where it is whole."""
        plan = self.source.plan
        texts = (plan,) if isinstance(plan, str) else plan
        return tuple(self.folder / text for text in texts if text)


def is_recipe(text: str) -> bool:
    """Whether a command-line argument names a recipe or a folder with one."""
    path = Path(text)
    return path.suffix == ".toml" or (path / FILE_NAME).is_file()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file, or the one in a folder, with what it takes over from another one.

    Raises:
        BadInputError: not TOML, another schema or major version, an unknown key (with the
            nearest), or a value of the wrong type (with its place); or the recipe whose network
            it takes over is not there, or leads back to it.
    """
    return _load(path, ())


def _load(path: Path, below: tuple[Path, ...]) -> Recipe:
    """One recipe, below those that take over from it."""
    if path.is_dir():
        path = path / FILE_NAME
    if path.resolve() in below:
        raise BadInputError(
            f"{path}: the recipe takes its network over from itself; name a source, such as "
            '[source] net = "net.py:build"'
        )
    recipe = _read(path)
    net = recipe.source.net
    parent = path.parent / net
    if is_recipe(str(parent)):
        return _inherited(recipe, _load(parent, (*below, path.resolve())), parent, path)
    if recipe.source.plan and ":" not in net and not parent.is_file():
        raise BadInputError(
            f"{path}: the network that it was cut from is not at {parent}: put it there again, or "
            "mend [source] net"
        )
    return recipe


def _read(path: Path) -> Recipe:
    try:
        raw = tomllib.loads(read_bytes(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInputError(f"{path} is not TOML: {error}") from error
    known_minor = _check_version(raw, path)
    if known_minor:
        _check_keys(raw, Recipe, str(path), frozenset({"schema", "version"}))
    try:
        return msgspec.convert(
            raw | {"folder": path.parent, "whole": None}, Recipe, dec_hook=_as_is
        )
    except msgspec.ValidationError as error:
        raise BadInputError(f"{path} is not a valid recipe: {error}") from error


def _inherited(recipe: Recipe, parent: Recipe, place: Path, path: Path) -> Recipe:
    """The parent with what the recipe says in its place; it stays where its paths lead from.

    Raises:
        BadInputError: both have plans, and plans always start from the whole network. Or it has
            data of its own.
    """
    own = recipe.source
    if own.plan and parent.source.plan:
        raise BadInputError(f"{path} has a plan, and so has {place}: name the whole network")
    if recipe.data != DataTable():
        raise BadInputError(f"{path}: [data] is taken over from {place}: say it there")
    weights, plans = recipe.weights_path, recipe.plan_paths
    source = replace(
        parent.source,
        weights=str(weights.absolute()) if weights else parent.source.weights,
        plan=tuple(str(plan.absolute()) for plan in plans) or parent.source.plan,
        inputs=own.inputs or parent.source.inputs,
        options={**parent.source.options, **own.options},
    )
    return replace(
        parent,
        source=source,
        task=recipe.task or parent.task,
        train={**parent.train, **recipe.train},
        export={**parent.export, **recipe.export},
        stages=recipe.stages,
        whole=parent.whole or place,
    )


def _check_version(raw: Mapping[str, object], path: Path) -> bool:
    """Refuse another schema or major version; tell whether every key should be known."""
    if raw.get("schema") != RECIPE.name:
        raise BadInputError(f'{path} is not a recipe: it must say schema = "{RECIPE.name}"')
    version = raw.get("version")
    major, _, minor = str(version).partition(".")
    if not (isinstance(version, str) and major.isdecimal() and minor.isdecimal()):
        raise BadInputError(f'{path}: version must be like "{RECIPE.version}", not {version!r}')
    if int(major) != RECIPE.major:
        raise BadInputError(
            f"{path} has version {version}; this deploykit reads recipes of version "
            f"{RECIPE.major}.x"
        )
    return int(minor) <= RECIPE.minor


def _check_keys(
    raw: Mapping[str, object], kind: type, where: str, also: frozenset[str] = frozenset()
) -> None:
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind) if f.metadata.get("in_record") is not False}
    for key, value in raw.items():
        if key in also:
            continue
        if key not in known:
            raise BadInputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _check_keys(value, hints[key], f"{where} [{key}]")


def _as_is(kind: type[object], value: object) -> object:
    if isinstance(value, kind):
        return value
    raise NotImplementedError(kind)
