"""Real numbers as integers: scale and zero point from a range, and constants in integers.

q = clip(round(x / scale) + zero, lowest, highest), with ties to even, as ONNX's QuantizeLinear has
it (Jacob et al., CVPR 2018, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TINY = 1e-30  # times the scale of an input this is a normal float32 still
_SHARES = np.linspace(0.99, 0.4, 60)
"""Of the largest weight: ends of a grid that are tried, in steps of a hundredth."""
_BIAS_ROOM = 2.0**30
"""A bias may use half of its 32 bits: products are added to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The real numbers that a quantizer can tell apart.

    Attributes:
        scale: float32: a number, or one for each index of `axis`.
        zero: the integer of 0.0, of the integers' type, in the shape of `scale`.
        axis: the dimension that the scales belong to, or `None` for one scale.
        bits: that are used, at most those of the type.
    """

    scale: NDArray[Any]
    zero: NDArray[Any]
    axis: int | None = None
    bits: int = 8

    def quantized(self, values: NDArray[Any]) -> NDArray[Any]:
        """Integers of some values, in the type of the zero point."""
        low, high = limits(self.zero.dtype, self.bits)
        scale, zero = self._beside(self.scale, values), self._beside(self.zero, values)
        # In float32, as the operator computes it on the device.
        found = np.rint(values.astype(np.float32) / scale) + zero.astype(np.float64)
        made: NDArray[Any] = np.clip(found, low, high).astype(self.zero.dtype)
        return made

    def restored(self, integers: NDArray[Any]) -> NDArray[Any]:
        """The values that integers stand for, in float32."""
        scale, zero = self._beside(self.scale, integers), self._beside(self.zero, integers)
        found: NDArray[Any] = (integers.astype(np.int64) - zero.astype(np.int64)) * scale
        return found.astype(np.float32)

    def _beside(self, part: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
        if self.axis is None:
            return part
        shape = [1] * values.ndim
        shape[self.axis] = -1
        return part.reshape(shape)


def limits(dtype: np.dtype[Any], bits: int = 8) -> tuple[int, int]:
    """The lowest and highest integer of a type with as many bits in use."""
    if dtype.kind == "u":
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def grid_of(low: float, high: float, dtype: str, *, symmetric: bool) -> Grid:
    """The grid of an activation.

    Args:
        low: the lowest value; 0.0 is on every grid, whatever the range.
        high: the highest.
        dtype: "uint8" or "int8".
        symmetric: whether 0.0 is the middle.
    """
    kind = np.dtype(dtype)
    lowest, highest = limits(kind)
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        middle = (lowest + highest + 1) // 2
        scale = max(-low, high) / (highest - middle)
        return Grid(_scale(scale), np.array(middle, kind))
    step = _scale((high - low) / (highest - lowest))
    zero = int(np.clip(round(lowest - low / float(step)), lowest, highest))
    return Grid(step, np.array(zero, kind))


def weight_grid(weights: NDArray[Any], axis: int | None, bits: int = 8) -> Grid:
    """The symmetric grid of weights: the largest magnitude is its end.

    Args:
        weights: of any shape.
        axis: dimension with a scale for each index, or `None` for one scale.
        bits: 8, or 7 for instructions that saturate.
    """
    others = None if axis is None else tuple(d for d in range(weights.ndim) if d != axis)
    largest = np.abs(weights).max(axis=others, initial=0.0)
    scale = np.maximum(largest / limits(np.dtype(np.int8), bits)[1], _TINY)
    scale = np.asarray(scale, np.float32)
    return Grid(scale, np.zeros(scale.shape, np.int8), axis, bits)


def best_weight_grid(weights: NDArray[Any], axis: int | None, bits: int = 8) -> Grid:
    """The symmetric grid of weights with the least squared error, rounding and clipping together.

    The end of the grid is tried at shares of the largest magnitude from 1 down; each index of
    `axis` has its own. At 8 bits little is gained, where weights have no outliers.

    Args:
        weights: of any shape.
        axis: dimension with a scale for each index, or `None` for one scale.
        bits: 8, or 7 for instructions that saturate.
    """
    best = weight_grid(weights, axis, bits)
    least = _squared_errors(weights, best)
    scale = best.scale
    for share in _SHARES:
        tried = Grid(np.asarray(best.scale * share, np.float32), best.zero, axis, bits)
        errors = _squared_errors(weights, tried)
        scale = np.where(errors < least, tried.scale, scale)
        least = np.minimum(errors, least)
    return Grid(np.asarray(scale, np.float32), best.zero, axis, bits)


def _squared_errors(weights: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Of a grid, in the shape of its scale."""
    others = None if grid.axis is None else tuple(d for d in range(weights.ndim) if d != grid.axis)
    wrong = grid.restored(grid.quantized(weights)) - weights
    return np.asarray(np.square(wrong, dtype=np.float64).sum(axis=others))


def with_room_for(bias: NDArray[Any], inputs: Grid, weights: Grid) -> Grid:
    """The grid of weights, coarser where a bias would not fit into 32 bits.

    Channels whose weights are (nearly) nothing would otherwise have a scale of nothing, and their
    bias as a number of such steps has no end.

    Args:
        bias: [channels].
        inputs: the grid of the layer's input.
        weights: of its weights.
    """
    least = np.abs(bias.astype(np.float64)) / (float(inputs.scale) * _BIAS_ROOM)
    if weights.axis is None:
        least = least.max(initial=0.0)
    scale = np.asarray(np.maximum(weights.scale, least), np.float32)
    return Grid(scale, weights.zero, weights.axis, weights.bits)


def bias_grid(inputs: Grid, weights: Grid) -> Grid:
    """Of a bias: the grid of the products that it is added to."""
    scale = np.asarray(inputs.scale * weights.scale, np.float32)
    axis = None if weights.axis is None else 0
    return Grid(scale, np.zeros(scale.shape, np.int32), axis, 32)


def _scale(step: float) -> NDArray[Any]:
    """A constant tensor has no spread: any scale does, and 1 hides nothing."""
    return np.array(step if step >= _TINY else 1.0, np.float32)
