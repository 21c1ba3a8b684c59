"""Users' own Python on its way in: `package.module` or `path/file.py`, and names in it.

What a user's code raises becomes one line with its own message and place.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deploykit.core.errors import BadInputError, DeploykitError, MissingExtraError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

T = TypeVar("T")
PREFIX = "deploykit_user_"
"""How modules begin that were imported from a file."""


def import_place(place: str, base: Path) -> ModuleType:
    """The module that `package.module` or `path/file.py` means.

    Args:
        place: as users write it.
        base: folder that a path is relative to, and where packages are looked for, too.

    Raises:
        BadInputError: there is none, or its own code fails.
        MissingExtraError: it imports a package that is not installed.
    """
    if place.endswith(".py"):
        return _import_file(base / place)
    folder = str(base.resolve())
    if folder not in sys.path:  # as `python -m` finds it, but never before an installed package
        sys.path.append(folder)
    return running(lambda: _import_module(place), place)


def member(found: object, name: str, place: str) -> object:
    """What is called `name`, which may have dots, in a module.

    Raises:
        BadInputError: nothing is; the message has the nearest name.
    """
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            raise BadInputError(f"{place} has no {name!r}{nearest(part, public)}")
        found = getattr(found, part)
    return found


def running(work: Callable[[], T], text: str) -> T:
    """Run users' code.

    Args:
        work: what runs it.
        text: what to call it in an error.

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
            f"{text} needs the module {error.name!r}, which is not installed: "
            "pip install the package that has it"
        ) from error
    except SyntaxError as error:
        place = f"{Path(error.filename or text).name}, line {error.lineno}"
        raise BadInputError(f"{text} is not Python: {error.msg} ({place})") from error
    except (Exception, SystemExit) as error:
        message = str(error).strip().split("\n")[0]
        said = f"{type(error).__name__}: {message}" if message else type(error).__name__
        raise BadInputError(f"{text} failed with {said} ({_place(error)})") from error


@contextmanager
def neighbours(place: str, base: Path) -> Iterator[None]:
    """Let the code of a file import the files beside it, as `python file.py` does.

    Args:
        place: as in `import_place`; nothing happens where it is no file.
        base: folder that a path is relative to.
    """
    if not place.endswith(".py"):
        yield
        return
    folder = (base / place).resolve().parent
    _forget_namesakes(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed package: no user's own code."""
    return str(path).startswith(_installed_roots())


@cache
def _installed_roots() -> tuple[str, ...]:
    plain = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")]
    return tuple(f"{path}{os.sep}" for root in plain for path in (root, root.resolve()))


def _import_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise BadInputError(
            f"no module is called {place!r}: install its package, or give the file as "
            f"path/{place.replace('.', '/')}.py:NAME"
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInputError(f"{path} does not exist")
    # A name of its own, so that two files called net.py can be loaded side by side.
    name = PREFIX + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with neighbours(path.name, path.parent):
            running(lambda: spec.loader.exec_module(module), str(path))  # type: ignore[union-attr]  # asserted above
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _forget_namesakes(folder: Path) -> None:
    """Drop the neighbours of another file, where `folder` has its own of that name.

    Otherwise the second of two nets that each have a `blocks.py` would get the first one's.
    """
    imported = list(sys.modules.items())
    others = {Path(str(m.__file__)).parent for name, m in imported if name.startswith(PREFIX)}
    for name, module in imported:
        top = name.partition(".")[0]
        there = _neighbour(folder, top)
        found = getattr(sys.modules.get(top, module), "__file__", None)
        if there is None or found is None or Path(found).resolve() == there:
            continue
        if any(Path(found).resolve() == _neighbour(other, top) for other in others):
            for stale in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
                del sys.modules[stale]


def _neighbour(folder: Path, name: str) -> Path | None:
    for path in (folder / name / "__init__.py", folder / f"{name}.py"):
        if path.is_file():
            return path.resolve()
    return None


def _place(error: BaseException) -> str:
    """File and line of what failed, in the user's own code where that is on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if not is_installed(Path(frame.filename).resolve()) and frame.filename != __file__
    ]
    last = (own or frames)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"
