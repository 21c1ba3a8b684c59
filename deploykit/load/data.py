"""What a data set is: NumPy arrays by position, so that data serves where torch is not installed.

Every source of data (`images.py`, `arrays.py` ...) returns a `Data`. `feeds` gives one batch of it
the names and types that a network's inputs have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.core.types import Preprocessing, TensorSpec

Array: TypeAlias = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples on their way to a network.

    Attributes:
        inputs: by name, each of shape [n, ...]; in the order of the network's inputs where the
            names are not the network's.
        labels: shape [n] or [n, ...], or `None` where the data has none.
    """

    inputs: Mapping[str, Array]
    labels: Array | None = None


class Data(Protocol):
    """A data set with random access. Decoding happens in `batch`, so size costs no memory."""

    @property
    def name(self) -> str:
        """As users wrote it, slice and all."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers, or empty."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How raw inputs became tensors, or `None` where the data cannot say."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, rows: Sequence[int]) -> Batch:
        """The samples with these numbers, from 0 to `len(self) - 1`, in this order.

        Raises:
            BadInputError: a sample cannot be read; the message names the file.
        """

    def digest(self) -> str:
        """SHA-256, in hex, of all that the data set serves (or of the files it reads)."""


def feeds(batch: Batch, specs: Sequence[TensorSpec], name: str) -> dict[str, Array]:
    """The batch's inputs under the network's names, checked and contiguous.

    By name where all names are the network's, by position where none is. Floats are cast between
    float types and integers between integer types, nothing else.

    Args:
        batch: from a data set.
        specs: the network's inputs.
        name: of the data set, for errors.

    Raises:
        BadInputError: the number of inputs, a type, a shape or a number does not fit, or a float
            is NaN or infinite; the message says which.
    """
    given = batch.inputs
    if len(given) != len(specs):
        raise BadInputError(
            f"{name} has {len(given)} inputs ({', '.join(given)}) and the network takes "
            f"{len(specs)} ({', '.join(spec.name for spec in specs)})"
        )
    names = [spec.name for spec in specs]
    missing = [one for one in names if one not in given]
    if 0 < len(missing) < len(names):  # by position, the others would be fed in wrong places
        strange = ", ".join(one for one in given if one not in names)
        raise BadInputError(
            f"{name} lacks input {missing[0]!r}, and {strange} is none of the network's: it takes "
            f"{', '.join(names)}"
        )
    arrays = list(given.values()) if missing else [given[one] for one in names]
    fed = {spec.name: _fitted(array, spec, name) for array, spec in zip(arrays, specs, strict=True)}
    _check_shared(fed, specs, name)
    return fed


def _fitted(array: Array, spec: TensorSpec, name: str) -> Array:
    want = np.dtype(spec.dtype)
    same_kind = array.dtype.kind == want.kind or {array.dtype.kind, want.kind} == {"i", "u"}
    if not same_kind:
        raise BadInputError(f"{name} gives {array.dtype} for input {spec.name!r}, which is {want}")
    if not shape_fits(array.shape, spec):
        raise BadInputError(
            f"{name} gives shape {list(array.shape)} for input {spec.name!r}, "
            f"which takes {shape_text(spec)}"
        )
    if want.kind == "f" and not np.isfinite(array).all():
        raise BadInputError(f"{name} has NaN or infinite values for input {spec.name!r}")
    if array.dtype == want:
        return np.require(array, requirements="C")  # ascontiguousarray gives scalars a dimension
    with np.errstate(over="ignore"):
        cast = np.require(array, want, "C")
    # A number that wraps around, or becomes infinite, would be taken for data.
    if not (np.isfinite(cast).all() if want.kind == "f" else np.array_equal(cast, array)):
        raise BadInputError(f"{name} has numbers beyond {want} for input {spec.name!r}")
    return cast


def _check_shared(fed: Mapping[str, Array], specs: Sequence[TensorSpec], name: str) -> None:
    """Refuse two sizes for one name of a dimension."""
    first: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for size, want in zip(fed[spec.name].shape, spec.shape, strict=True):
            if isinstance(want, Dim):
                before, where = first.setdefault(want.name, (size, spec.name))
                if before != size:
                    raise BadInputError(
                        f"{name} gives {want.name}={before} for input {where!r} and "
                        f"{want.name}={size} for input {spec.name!r}: they must be equal"
                    )


def named_dim(name: object, tensor: str, axis: int) -> Dim:
    """The dimension that an ONNX file calls `name`; after its tensor and axis where it does not.

    "?" is how some exporters write "unknown", and is not one dimension wherever it stands.
    """
    return Dim(name if isinstance(name, str) and name.strip("? ") else f"{tensor}_{axis}")


def shape_fits(shape: Sequence[int], spec: TensorSpec) -> bool:
    """Whether an array of this shape may be fed to the input."""
    return len(shape) == len(spec.shape) and all(
        _size_fits(size, want) for size, want in zip(shape, spec.shape, strict=True)
    )


def _size_fits(size: int, want: int | Dim) -> bool:
    if not isinstance(want, Dim):
        return size == want
    return want.low <= size and (want.high is None or size <= want.high) and not size % want.step


def shape_text(spec: TensorSpec) -> str:
    """The shape as users write it: "N[1..64]x3x224x224"; "scalar" for none."""
    return "x".join(_size_text(size) for size in spec.shape) or "scalar"


def _size_text(size: int | Dim) -> str:
    if not isinstance(size, Dim):
        return str(size)
    step = f":{size.step}" if size.step > 1 else ""
    return f"{size.name}[{size.low}..{'' if size.high is None else size.high}{step}]"
