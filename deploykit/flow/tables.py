"""Tables of a recipe -> the options that they name."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploykit.core.types import Option

T = TypeVar("T")


def options_from(table: Mapping[str, Option], kind: type[T], where: str) -> T:
    """The options dataclass that a table of a recipe stands for; what is left out is default.

    Args:
        table: as read.
        kind: a frozen dataclass of options.
        where: what to call the table in an error, such as "[train]".

    Raises:
        BadInputError: an unknown key (with the nearest), a value of the wrong type, or one that
            the options refuse.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]  # a dataclass, see above
    for key in table:
        if key not in known:
            raise BadInputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        raise BadInputError(f"{where}: {error}") from error
