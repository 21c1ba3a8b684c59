"""Command-line options made of the fields of an options dataclass.

Name, type and default are those of the field; only the words of the help are said here. What is
not given is `None` or empty, so that a recipe, or the dataclass itself, fills it in.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, NamedTuple, get_args, get_type_hints

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploykit.core.types import Option


class Said(NamedTuple):
    """What help says about a field.

    Attributes:
        text: a sentence.
        choices: what it may be, or empty.
        default: in words, where the dataclass's own is not it.
    """

    text: str
    choices: tuple[str, ...] = ()
    default: str = ""


def options_of(
    kind: type, said: Mapping[str, Said]
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """A decorator that adds an option for each of these fields, in this order.

    A field that is true by default becomes `--no-NAME`.

    Args:
        kind: a dataclass.
        said: help by the name of the field.
    """

    def add(function: click.decorators.FC) -> click.decorators.FC:
        for name in reversed(tuple(said)):
            function = _option(kind, name, said[name])(function)
        return function

    return add


def given_of(given: Mapping[str, Option], said: Mapping[str, Said]) -> dict[str, Option]:
    """What was typed of these fields."""
    return {name: given[name] for name in said if given[name] not in {None, ()}}


def _words(default: object) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else f"{default}"


def _option(
    kind: type, name: str, said: Said
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    hint = get_type_hints(kind)[name]
    default = next(f.default for f in fields(kind) if f.name == name)
    flag = f"--{name.replace('_', '-')}"
    if hint is bool:
        negative = default is True
        spelt = (f"--no-{flag[2:]}", name) if negative else (flag, name)
        return click.option(*spelt, flag_value=not negative, default=None, help=said.text)
    words = said.default or ("" if default in {MISSING, None, "", ()} else _words(default))
    text = f"{said.text}  [default: {words}]" if words else said.text
    if hint == tuple[str, ...]:
        return click.option(flag, name, multiple=True, help=text)
    if hint == tuple[float, ...]:
        return click.option(flag, name, type=float, multiple=True, help=text)
    plain = next((part for part in get_args(hint) if part is not type(None)), hint)
    kept = click.Choice(said.choices) if said.choices else plain
    return click.option(flag, name, type=kept, help=text)
