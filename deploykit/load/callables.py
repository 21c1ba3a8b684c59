"""Users' own functions: `package.module:callable` or `path/file.py:callable`, and data from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from deploykit.core.errors import BadInputError
from deploykit.load.arrays import from_arrays
from deploykit.load.imports import import_place, member, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploykit.load.data import Array, Data

_DATA_MEMBERS = ("name", "labels", "preprocessing", "__len__", "batch", "digest")


def open_callable(text: str, base: Path) -> Data:
    """Call the user's function without arguments and take what it returns as data.

    It may return a `Data`, a pair of arrays (inputs, labels), inputs alone, or a dictionary of
    arrays with the names that `deploykit.load.arrays.from_arrays` knows.

    Raises:
        BadInputError: it cannot be imported, fails, or returns something else.
    """
    made = running(user_callable(text, base), text)
    if all(hasattr(made, member) for member in _DATA_MEMBERS):
        return cast("Data", made)
    if isinstance(made, dict):
        return from_arrays({str(key): _array(value, text) for key, value in made.items()}, text)
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 2:
        raise BadInputError(
            f"{text} returned {len(parts)} values; return (inputs, labels), a dictionary of "
            "arrays, or a Data"
        )
    return from_arrays(
        {key: _array(value, text) for key, value in zip(("x", "y"), parts, strict=False)}, text
    )


def user_callable(text: str, base: Path) -> Callable[..., object]:
    """The callable that `package.module:name` or `path/file.py:name` means.

    Args:
        text: as users write it.
        base: folder that the path is relative to.

    Raises:
        BadInputError: no such module, file or name, its own code fails, or it is not callable.
        MissingExtraError: it imports a package that is not installed.
    """
    place, _, name = text.rpartition(":")
    found = member(import_place(place, base), name, place)
    if not callable(found):
        raise BadInputError(f"{text} is a {type(found).__name__}, not a function")
    return found


def _array(value: object, text: str) -> Array:
    # Plain lists of unequal lengths become an object array or an error: both are refused.
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadInputError(f"{text} returned what is no array: {error}") from error
    return cast("Array", array)
