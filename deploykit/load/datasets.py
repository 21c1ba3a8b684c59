"""Data by name: `NAME[:SPLIT][?key=value&key=value][SLICE]`.

==========================================  ================================================
text                                        what it is
==========================================  ================================================
`fashion-mnist:test[:500]`                  Fashion-MNIST, whole or else compact; `-full` and
                                            `-compact` are one of them
`digits[::2]`                               scikit-learn's digits
`images/val?resize=256&crop=224[:100]`      a folder of images
`data.npz[100:200]`                         arrays
`inputs.npz?whole=yes`                      the inputs of one call, as they are (state, scalars)
`package.module:callable`, `my.py:data`     what a function of yours returns
==========================================  ================================================

NumPy only, so that data serves where torch is not installed.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from deploykit.core.errors import BadInputError, nearest
from deploykit.load.arrays import from_arrays, read_npz
from deploykit.load.callables import open_callable
from deploykit.load.digits import digits
from deploykit.load.fashion_mnist import (
    fashion_mnist,
    fashion_mnist_compact,
    fashion_mnist_full,
)
from deploykit.load.images import ImageFolder, open_images
from deploykit.load.one_call import OneCall, wants_one_call
from deploykit.load.slices import Sliced, slice_rows, split_slice

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploykit.load.data import Data

Opener: TypeAlias = "Callable[[str], Data]"

# Called with the split; each has a default for "".
NAMED: tuple[tuple[str, Opener], ...] = (
    ("digits", digits),
    ("fashion-mnist", lambda split: fashion_mnist(split or "test")),
    ("fashion-mnist-compact", lambda split: fashion_mnist_compact(split or "test")),
    ("fashion-mnist-full", lambda split: fashion_mnist_full(split or "test")),
)
_ALIKE = 0.8  # a name this near to one of ours was meant to be it
_FORMS = "a folder of images, data.npz, or package.module:callable"


def open_data(text: str, base: Path | None = None) -> Data:
    """The data set that a text means; see the module.

    Args:
        text: as users write it.
        base: folder that relative paths start from; the working directory if `None`.

    Raises:
        BadInputError: nothing of that name, an unknown split or option, an empty slice, or the
            data itself is unusable.
        MissingExtraError: it needs a package that is not installed.
    """
    whole, slice_text = split_slice(text)
    name, options = _split_options(whole)
    data = _open(name, options, whole, Path() if base is None else base)
    if not slice_text:
        return data
    rows = slice_rows(slice_text, len(data), data.name)
    sliced_name = data.name + slice_text
    if isinstance(data, ImageFolder):
        return data.only(rows, sliced_name)
    return Sliced(data, rows, sliced_name)


def _open(name: str, options: dict[str, str], text: str, base: Path) -> Data:
    head, _, split = name.partition(":")
    path = base / name
    for known, opener in NAMED:
        if head == known:
            _no_options(options, text)
            return opener(split)
    if path.is_dir():
        return open_images(path, options, text)
    if head.endswith(".npz"):
        if split:
            raise BadInputError(f"data {text}: an .npz file has no splits; take a slice: [:100]")
        if wants_one_call(options, text):
            return OneCall(text, read_npz(path))
        return from_arrays(read_npz(path), text)
    _no_options(options, text)
    names = [known for known, _ in NAMED]
    if split and not _is_misspelt(head, names, base):
        return open_callable(name, base)
    raise BadInputError(
        f"there is no data {text!r}, and no such folder{nearest(head, names)}; or give {_FORMS}"
    )


def _is_misspelt(head: str, names: list[str], base: Path) -> bool:
    """Whether `head`, which is no data of ours, was meant to be one and is no module either."""
    alike = get_close_matches(head, names, cutoff=_ALIKE)
    return (
        bool(alike)
        and head.replace("-", "_").isidentifier()
        and not any((base / end).exists() for end in (head, f"{head}.py"))
        and find_spec(head) is None
    )


def _split_options(text: str) -> tuple[str, dict[str, str]]:
    name, _, query = text.partition("?")
    options: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise BadInputError(f"data {text!r}: {pair!r} is no option; write it like resize=256")
        if key in options:
            raise BadInputError(f"data {text!r} has the option {key!r} twice")
        options[key] = value
    return name, options


def _no_options(options: dict[str, str], text: str) -> None:
    if options:
        raise BadInputError(
            f"data {text}: only a folder of images has options, not {', '.join(options)}"
        )
