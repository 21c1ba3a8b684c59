"""Users' own Python: `package.module:callable` or `path/file.py:callable`, and data from one.

What a user's code raises becomes one line with its own message and place.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from deploykit.core.errors import BadInputError, DeploykitError, MissingExtraError, nearest
from deploykit.load.arrays import from_arrays

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from deploykit.load.data import Array, Data

T = TypeVar("T")
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
    found: object = _import_file(base / place) if place.endswith(".py") else _import_module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            raise BadInputError(f"{place} has no {name!r}{nearest(part, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise BadInputError(f"{text} is a {type(found).__name__}, not a function")
    return found


def running(work: Callable[[], T], text: str) -> T:
    """Run a user's code.

    Raises:
        BadInputError: whatever it raised, in one line.
        MissingExtraError: it imports a package that is not installed.
    """
    try:
        return work()
    except DeploykitError:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{text} needs {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except SyntaxError as error:
        place = f"{Path(error.filename or text).name}, line {error.lineno}"
        raise BadInputError(f"{text} is not Python: {error.msg} ({place})") from error
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = str(error).strip().split("\n")[0]
        raise BadInputError(
            f"{text} failed with {type(error).__name__}: {message} "
            f"({Path(last.filename).name}, line {last.lineno})"
        ) from error


def _import_module(place: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise BadInputError(
            f"no module is called {place!r}: install its package, or give the file as "
            f"path/{place.replace('.', '/')}.py:NAME"
        )
    return running(lambda: importlib.import_module(place), place)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInputError(f"{path} does not exist")
    # A name of its own, so that two files of one name can be loaded side by side.
    name = f"deploykit_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        running(lambda: spec.loader.exec_module(module), str(path))  # type: ignore[union-attr]  # asserted above
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _array(value: object, text: str) -> Array:
    # Plain lists of unequal lengths become an object array or an error: both are refused.
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadInputError(f"{text} returned what is no array: {error}") from error
    return cast("Array", array)
