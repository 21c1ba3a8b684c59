"""Which channel counts of a layer are timed, and what that says of those between.

Kernels work in blocks of channels, so that latency over counts is a stair, and not always a rising
one. Stairs are seen where counts are close together, which a full grid cannot afford. So a layer is
timed along two *lines*, inputs at full outputs and outputs at full inputs, closely; and at a few
*nodes* between, which tell how far the product of the two lines is off:

    t(i, o) = t(i, O) t(I, o) / t(I, O) * c(i, o)

with I and O the full counts, c = 1 on both lines, and bilinear between nodes. A few further counts,
the *checks*, are timed and never used: how far the formula is off there is the table's error.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from math import lcm
from random import Random
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.bench.layer_shapes import LayerShape

LINE_COUNTS = 16
"""The most counts on a line, unless a caller wants others."""

GRAIN = 4
"""Timed counts are multiples of it: no kernel is known that likes others better."""

_FEWEST = 5  # a layer of fewer channels (an image's colours) is not pruned
_CHECKS = 3
_NODES = (0.125, 0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Grid:
    """The counts of one layer that are timed.

    Attributes:
        inputs: on the line of inputs, ascending; the last is the full count.
        outputs: likewise.
        node_inputs: of the nodes, ascending; the last is the full count.
        node_outputs: likewise.
        checks: pairs of inputs and outputs that are timed only to tell the error.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    node_inputs: tuple[int, ...]
    node_outputs: tuple[int, ...]
    checks: tuple[tuple[int, int], ...]

    @property
    def points(self) -> tuple[tuple[int, int], ...]:
        """Every pair of inputs and outputs, once."""
        whole = self.inputs[-1], self.outputs[-1]
        lines = [(count, whole[1]) for count in self.inputs]
        lines += [(whole[0], count) for count in self.outputs]
        nodes = product(self.node_inputs, self.node_outputs)
        return tuple(dict.fromkeys((*lines, *nodes, *self.checks)))


def grid_of(shape: LayerShape, most: int = LINE_COUNTS) -> Grid:
    """The counts to time of a layer; of a depthwise one, those of its inputs decide.

    Args:
        shape: the layer.
        most: counts on a line.
    """
    if shape.depthwise:
        inputs = _line(shape.inputs, 1, most)
        return Grid(inputs, (shape.outputs,), inputs[-1:], (shape.outputs,), ())
    inputs = _line(shape.inputs, shape.groups, most)
    outputs = _line(shape.outputs, shape.groups, most)
    nodes = _nodes(inputs), _nodes(outputs)
    used = set(product(*nodes))
    between = [pair for pair in product(inputs[:-1], outputs[:-1]) if pair not in used]
    chance = Random(shape.text)  # noqa: S311  (the same checks every time)
    return Grid(inputs, outputs, *nodes, tuple(chance.sample(between, min(_CHECKS, len(between)))))


def _line(full: int, groups: int, most: int) -> tuple[int, ...]:
    if full < _FEWEST:
        return (full,)
    grain = lcm(GRAIN, groups)
    step = grain * -(-full // (grain * most))
    return (*range(step, full, step), full)


def _nodes(line: Sequence[int]) -> tuple[int, ...]:
    """The first, those nearest to some shares of the full count, and the last."""
    full = line[-1]
    near = (min(line, key=lambda count: abs(count - share * full)) for share in _NODES)
    return tuple(sorted({line[0], *near, full}))


class Surface:
    """Latency of one layer over its channel counts; see the module.

    Args:
        shape: the layer.
        grid: the counts.
        latency_ns: of each of the grid's points, by inputs and outputs.
    """

    def __init__(
        self, shape: LayerShape, grid: Grid, latency_ns: Mapping[tuple[int, int], float]
    ) -> None:
        self._shape, self._grid, self._known = shape, grid, latency_ns
        full_in, full_out = grid.inputs[-1], grid.outputs[-1]
        self._whole = latency_ns[full_in, full_out]
        if shape.depthwise:
            self._in = [latency_ns[count, _widened(shape, count)] for count in grid.inputs]
        else:
            self._in = [latency_ns[count, full_out] for count in grid.inputs]
        self._out = [latency_ns[full_in, count] for count in grid.outputs]

    def at(self, inputs: int, outputs: int) -> float:
        """Nanoseconds with so many channels; below the smallest timed count, those of that count.

        Counts between timed ones lie on the straight line between them, also those that are no
        multiple of 4, which most kernels are slower on: see `deploykit.bench.alignment`.

        Raises:
            BadInputError: more than the full counts, or fewer than one.
        """
        shape = self._shape
        if not (1 <= inputs <= shape.inputs and 1 <= outputs <= shape.outputs):
            raise BadInputError(
                f"{shape.text} has no latency for {inputs} inputs and {outputs} outputs: "
                "the table goes from 1 to the full counts"
            )
        grid = self._grid
        along = between(grid.inputs, self._in, inputs)
        if shape.depthwise:
            return along
        across = between(grid.outputs, self._out, outputs)
        return along * across / self._whole * self._correction(inputs, outputs)

    def errors(self) -> tuple[float, ...]:
        """The share that the formula is off at each check: 0.02 is 2 % too slow."""
        return tuple(self.at(*pair) / self._known[pair] - 1 for pair in self._grid.checks)

    def line(self, side: str) -> dict[int, float]:
        """Nanoseconds by count along "in" or "out", the other side at full."""
        if side == "in" or self._shape.depthwise:
            return dict(zip(self._grid.inputs, self._in, strict=True))
        return dict(zip(self._grid.outputs, self._out, strict=True))

    def _correction(self, inputs: int, outputs: int) -> float:
        grid = self._grid
        rows = [
            between(grid.node_outputs, [self._ratio(i, o) for o in grid.node_outputs], outputs)
            for i in grid.node_inputs
        ]
        return between(grid.node_inputs, rows, inputs)

    def _ratio(self, inputs: int, outputs: int) -> float:
        along = self._known[inputs, self._grid.outputs[-1]]
        across = self._known[self._grid.inputs[-1], outputs]
        return self._known[inputs, outputs] * self._whole / (along * across)


def points_of(shape: LayerShape, grid: Grid) -> tuple[tuple[int, int], ...]:
    """The pairs of inputs and outputs to time; a depthwise layer's outputs follow its inputs."""
    if shape.depthwise:
        return tuple((count, _widened(shape, count)) for count in grid.inputs)
    return grid.points


def _widened(shape: LayerShape, inputs: int) -> int:
    return inputs * shape.outputs // shape.inputs


def between(counts: Sequence[int], values: Sequence[float], count: int) -> float:
    """Linear between neighbours, constant beyond the ends.

    Args:
        counts: ascending, at least one.
        values: one a count; they may rise and fall.
        count: where.
    """
    if count <= counts[0]:
        return values[0]
    for (low, below), (high, above) in pairwise(zip(counts, values, strict=True)):
        if count <= high:
            return below + (above - below) * (count - low) / (high - low)
    return values[-1]
