"""Data from arrays in memory or in an `.npz` file."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.core.errors import BadInputError
from deploykit.load.data import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from deploykit.core.types import Preprocessing
    from deploykit.load.data import Array

LABEL_NAMES = ("labels", "label", "y", "targets")
_SERVED_KINDS = "biuf"


@dataclass(frozen=True, slots=True, eq=False)
class ArrayData:
    """Arrays whose first dimension counts the samples.

    Attributes:
        name: see `deploykit.load.data.Data`.
        inputs: by name, each of shape [n, ...].
        targets: shape [n] or [n, ...], or `None` where there are none.
        labels: names of the classes, or empty.
        preprocessing: or `None` where nobody said.
    """

    name: str
    inputs: Mapping[str, Array]
    targets: Array | None = None
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    def batch(self, rows: Sequence[int]) -> Batch:
        """The arrays' rows, in their own types."""
        index = np.asarray(rows, dtype=np.intp)
        targets = None if self.targets is None else self.targets[index]
        return Batch({name: array[index] for name, array in self.inputs.items()}, targets)

    def digest(self) -> str:
        """SHA-256 of all arrays with their names, types and shapes."""
        targets = [] if self.targets is None else [("", self.targets)]
        return digest_of([*self.inputs.items(), *targets])


def from_arrays(arrays: Mapping[str, Array], name: str) -> ArrayData:
    """Inputs and labels by their names.

    Args:
        arrays: one called "labels", "label", "y" or "targets" is the labels; the others are
            inputs.
        name: of the data set.

    Raises:
        BadInputError: no inputs, two arrays of labels, unequal lengths, or a type that is
            neither a number nor a bool.
    """
    found = [key for key in arrays if key in LABEL_NAMES]
    inputs = {key: array for key, array in arrays.items() if key not in LABEL_NAMES}
    if len(found) > 1:
        raise BadInputError(f"{name} has labels twice: {', '.join(found)}; keep one of them")
    if not inputs:
        has = f"only {found[0]!r}" if found else "no arrays"
        raise BadInputError(f"{name} has {has}: there must be an array of inputs")
    for key, array in arrays.items():
        if array.dtype.kind not in _SERVED_KINDS:
            raise BadInputError(f"{name}: {key!r} is of type {array.dtype}; store numbers or bools")
        if array.ndim == 0:
            raise BadInputError(f"{name}: {key!r} is a single number; its first dimension counts")
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise BadInputError(f"{name} has arrays of unequal lengths: {said}")
    if not next(iter(lengths.values())):
        raise BadInputError(f"{name} has no samples")
    return ArrayData(name, inputs, arrays[found[0]] if found else None)


def digest_of(arrays: Iterable[tuple[str, Array]]) -> str:
    """SHA-256, in hex, of arrays with their names, types and shapes."""
    total = hashlib.sha256()
    for name, array in arrays:
        # Little-endian on every machine, so that the digest is the same on all.
        stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        total.update(f"{name} {stored.dtype.str} {list(array.shape)}\n".encode())
        total.update(stored.tobytes())
    return total.hexdigest()


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz` file by name. Pickled objects are refused.

    Raises:
        BadInputError: it cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise BadInputError(f"{path} is a single array; save it with np.savez(path, x=...)")
            with stored:
                return {key: stored[key] for key in stored.files}
    except FileNotFoundError as error:
        raise BadInputError(f"{path} does not exist") from error
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy's own words advise `allow_pickle`, which would run what is in the file.
        raise BadInputError(
            f"{path} is no .npz file of numbers, or cut off; save it with np.savez(path, x=...)"
        ) from error
