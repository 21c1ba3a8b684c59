"""Of what passes between stages: where its samples lie, found by running the graph.

Shapes that are written in a file are often missing, and after quantization always: so the graph is
run at several numbers of samples, and what grows with them is where the samples lie. A stage
goes on with fewer samples than the one before had; sizes that were computed from their number
(`Shape`, then `Reshape`) are computed again from what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim
from deploykit.load.synthetic import dims_of, synthetic_feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deploykit.core.types import TensorSpec
    from deploykit.load.data import Array

    Run = Callable[[onnx.ModelProto, Mapping[str, Array]], Mapping[str, Array]]

_PROBES = 3
_LEAST = 2
"""Of one sample nothing is told: every dimension of size 1 could be it."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tensor that passes from one stage to a later one.

    Attributes:
        name: in the graph.
        dtype: NumPy's name.
        shape: sizes, or a name where it changes from call to call.
        axis: of the samples; `None` where it is the same for all of them.
        slope: of a list of sizes: how much each grows with a sample, else empty ...
        offset: ... and what each is for none.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    axis: int | None
    slope: tuple[int, ...] = ()
    offset: tuple[int, ...] = ()


def crossings(
    model: onnx.ModelProto, names: Sequence[str], specs: Sequence[TensorSpec], run: Run
) -> dict[str, Crossing]:
    """What each of these values is.

    Args:
        model: with its weights; not changed.
        names: of values in it.
        specs: its inputs, with ranges.
        run: a model on inputs -> its outputs, by name.

    Raises:
        BadInputError: samples lie in a value such that some cannot be taken out of it.
    """
    if not names:
        return {}
    probed = with_outputs(model, names)
    samples = samples_dim(specs)
    low = {dim.name: _size(dim, 0) for dim in dims_of(specs).values()}
    counts = _counts(samples)
    runs = [
        run(probed, synthetic_feeds(specs, {**low, samples.name: n} if samples else low, seed=seed))
        for n, seed in [(n, 0) for n in counts] + [(counts[0], 1)]
    ]
    others = [dim for dim in dims_of(specs).values() if samples is None or dim.name != samples.name]
    longer = []
    if others:
        high = {**low, **{dim.name: _size(dim, 1) for dim in others}}
        longer = [run(probed, synthetic_feeds(specs, high, seed=0))]
    return {
        name: _crossing(name, counts, [found[name] for found in runs], [x[name] for x in longer])
        for name in names
    }


def samples_dim(specs: Sequence[TensorSpec]) -> Dim | None:
    """The dimension that samples are counted in, where their number may change."""
    first = specs[0].shape[0] if specs and specs[0].shape else None
    return first if isinstance(first, Dim) and first.high != first.low else None


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives these values instead of its outputs, of types that the runtime finds."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return probed


def _counts(samples: Dim | None) -> tuple[int, ...]:
    """Numbers of samples to try."""
    if samples is None:
        return (1,)
    first = max(samples.low, -(-_LEAST // samples.step) * samples.step)
    wanted = [first + k * samples.step for k in range(_PROBES)]
    return tuple(n for n in wanted if samples.high is None or n <= samples.high) or (samples.low,)


def _size(dim: Dim, further: int) -> int:
    size = dim.low + further * dim.step
    return min(size, dim.high) if dim.high is not None else size


def _crossing(
    name: str, counts: Sequence[int], found: Sequence[Array], longer: Sequence[Array]
) -> Crossing:
    """Args: `found` has one array for each count, and one more with other values."""
    *arrays, other = found
    first = arrays[0]
    shapes = [array.shape for array in arrays]
    rank = first.ndim
    if any(len(shape) != rank for shape in shapes):
        raise BadInputError(f"{name} has other numbers of dimensions for other numbers of samples")
    grows = [axis for axis in range(rank) if len({shape[axis] for shape in shapes}) > 1]
    sizes: list[int | str] = [
        size if all(array.shape[axis] == size for array in longer) else f"{name}_{axis}"
        for axis, size in enumerate(first.shape)
    ]
    plain = Crossing(name, first.dtype.name, tuple(sizes), None)
    if not grows:
        return _sizes(plain, counts, arrays, other, longer)
    (axis, *more) = grows
    if more or any(shape[axis] != n for n, shape in zip(counts, shapes, strict=True)):
        told = ", ".join(f"{list(s)} for {n}" for n, s in zip(counts, shapes, strict=True))
        raise BadInputError(
            f"{name} passes from one stage to the next, and no dimension of it counts the samples "
            f"({told}): take an exit behind another layer"
        )
    sizes[axis] = "N"
    return Crossing(name, first.dtype.name, tuple(sizes), axis)


def _sizes(
    plain: Crossing,
    counts: Sequence[int],
    arrays: Sequence[Array],
    other: Array,
    longer: Sequence[Array],
) -> Crossing:
    """A value whose shape does not grow: a list of sizes whose values do, or the same for all."""
    first = arrays[0]
    if len(counts) < _LEAST or first.dtype.kind != "i" or first.ndim > 1:
        return plain
    if not np.array_equal(first, other):
        return plain  # it depends on the data, and passes as it is
    if all(np.array_equal(first, array) for array in arrays):
        return plain
    step = counts[1] - counts[0]
    flat = [np.ravel(array).astype(np.int64) for array in arrays]
    slope = (flat[1] - flat[0]) // step
    offset = flat[0] - slope * counts[0]
    told = zip(counts, flat, strict=True)
    affine = all(np.array_equal(slope * n + offset, array) for n, array in told)
    if not affine or any(not np.array_equal(first, array) for array in longer):
        raise BadInputError(
            f"{plain.name} passes from one stage to the next, and depends on the number of samples "
            f"in a way that cannot be computed again ({[x.tolist() for x in flat]} for "
            f"{list(counts)}): take an exit behind another layer"
        )
    found = tuple(int(x) for x in slope), tuple(int(x) for x in offset)
    return Crossing(plain.name, plain.dtype, plain.shape, None, *found)
