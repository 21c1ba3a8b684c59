"""PyTorch networks on their way in.

| source | what it is |
| --- | --- |
| `path/net.py:build` | a callable, class or module in a file |
| `package.module:callable` | the same in an installed package |
| `timm:NAME`, `torchvision:NAME` | a network of those packages, if they are installed |
| a folder with `recipe.toml`, or the file | the recipe's own source, weights and inputs |
| `model.pt2` | an exported program, with trust only: loading one can run code |

A source is code and comes from the command line or from a recipe that the user named, never from
a record.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass, field
from pathlib import Path

from deploykit.core.errors import BadInputError
from deploykit.core.types import Io, Option, TensorSpec
from deploykit.load.inputs import parse_inputs
from deploykit.load.recipe import is_recipe, load_recipe

ZOOS = ("timm", "torchvision")
"""Packages whose networks are named without a module."""
FORMS = (
    "path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME, "
    "a folder with recipe.toml, model.onnx or model.pt2"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A network that is not loaded yet: light, and small enough to send to another process.

    Attributes:
        text: as users write it; see the module.
        weights: a weights file, or `None` where the source brings them.
        plans: what was done to the network, one `plan.json` after the other; empty where it is
            whole.
        inputs: declared inputs, or empty where the source knows them itself.
        trust: whether a `.pt2` file may be loaded.
        options: keyword arguments of the callable.
        base: folder that paths in `text` are relative to.
        io: what inputs and outputs mean.
    """

    text: str
    weights: Path | None = None
    inputs: tuple[TensorSpec, ...] = ()
    trust: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    base: Path = field(default_factory=Path)
    io: Io = field(default_factory=Io)
    plans: tuple[Path, ...] = ()


def resolve(source: Source) -> Source:
    """Replace a recipe by what it says; the caller's own weights and inputs win.

    Raises:
        BadInputError: the recipe cannot be read.
    """
    path = source.base / source.text
    if not is_recipe(str(path)):
        return source
    recipe = load_recipe(path)
    return Source(
        text=recipe.source.net,
        weights=source.weights or recipe.weights_path,
        inputs=source.inputs or parse_inputs(recipe.source.inputs),
        trust=source.trust,
        options=dict(recipe.source.options) | dict(source.options),
        base=recipe.folder,
        io=Io(task=recipe.task or None),
        plans=source.plans or recipe.plan_paths,
    )


def check_form(text: str) -> None:
    """Refuse a text that is no source at all, before torch is loaded.

    Raises:
        BadInputError: of no known form, or its file is not there.
    """
    path, colon, name = text.rpartition(":")
    if not colon and (Path(text).suffix == ".pt2" or is_recipe(text)):
        if not Path(text).exists():
            raise BadInputError(f"{text} does not exist")
        return
    if not colon or not path or not name:
        there = "" if Path(text).exists() else " and no such file"
        raise BadInputError(f"{text!r} is not a source{there}; write {FORMS}")
    if path.endswith(".py") and not Path(path).is_file():
        raise BadInputError(f"{path} does not exist")
