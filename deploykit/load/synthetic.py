"""Inputs where no data is given: seeded, so that two runs feed the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.core.errors import BadInputError, nearest
from deploykit.core.types import Dim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.core.types import TensorSpec
    from deploykit.load.data import Array

_UNBOUNDED = 1 << 30
_INTEGER_LIMIT = 2  # token ids, masks, classes: 0 and 1 are right for nearly every vocabulary


def synthetic_feeds(
    specs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """One batch: floats are standard normal, integers 0 or 1, booleans true.

    Args:
        specs: the network's inputs.
        sizes: the size of each dynamic dimension by name.
        seed: of the generator; the same seed gives the same numbers everywhere.

    Raises:
        BadInputError: an input has a type that NumPy cannot make.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _array(spec, sizes, generator) for spec in specs}


def _array(spec: TensorSpec, sizes: Mapping[str, int], generator: np.random.Generator) -> Array:
    shape = tuple(sizes[size.name] if isinstance(size, Dim) else size for size in spec.shape)
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise BadInputError(
            f"input {spec.name!r} has type {spec.dtype}, for which inputs cannot be made up: "
            "give real ones (bench: --data, export: --val)"
        ) from error
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    return generator.integers(0, _INTEGER_LIMIT, shape).astype(dtype)


def dims_of(specs: Sequence[TensorSpec]) -> dict[str, Dim]:
    """Every dynamic dimension of the inputs, by name, in order of appearance."""
    return {size.name: size for spec in specs for size in spec.shape if isinstance(size, Dim)}


def choose_sizes(
    specs: Sequence[TensorSpec], batch: int | None = None, chosen: Mapping[str, int] | None = None
) -> dict[str, int]:
    """A size for each dynamic dimension.

    Args:
        specs: the network's inputs.
        batch: the size of the first dimension of the first input, where it is dynamic.
        chosen: sizes by name, which win over `batch`; the others take the lowest allowed.

    Raises:
        BadInputError: a size out of its range, a name that is not there, or a batch for a network
            whose batch is fixed at another size.
    """
    dims = dims_of(specs)
    chosen = dict(chosen or {})
    first = specs[0].shape[0] if specs and specs[0].shape else None
    if batch is not None:
        if isinstance(first, Dim):
            chosen.setdefault(first.name, batch)
        elif first != batch:
            raise BadInputError(
                f"the first dimension of input {specs[0].name!r} is fixed at {first}: "
                f"batch {batch} cannot be run"
                if first is not None
                else f"the network takes no batch: batch {batch} cannot be run"
            )
    for name, size in chosen.items():
        if name not in dims:
            raise BadInputError(f"no dynamic dimension is called {name!r}{nearest(name, dims)}")
        _check(dims[name], size)
    return {name: chosen.get(name, dim.low) for name, dim in dims.items()}


def _check(dim: Dim, size: int) -> None:
    high = _UNBOUNDED if dim.high is None else dim.high
    if not dim.low <= size <= high or size % dim.step:
        upper = "" if dim.high is None else dim.high
        step = f", in steps of {dim.step}" if dim.step > 1 else ""
        raise BadInputError(
            f"size {size} of {dim.name} is outside its range {dim.low}..{upper}{step}"
        )
