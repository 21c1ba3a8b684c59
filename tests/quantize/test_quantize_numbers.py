"""Grids: what integers stand for, against plain arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deploykit.quantize.place.numbers import (
    Grid,
    best_weight_grid,
    bias_grid,
    grid_of,
    limits,
    weight_grid,
    with_room_for,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.0, 6.0), (-5.0, 0.0), (0.5, 2.0), (-9.0, -1.0)])
def test_zero_is_on_the_grid_and_no_value_is_further_than_half_a_step(
    dtype: str, symmetric: bool, ends: tuple[float, float]
) -> None:
    grid = grid_of(*ends, dtype, symmetric=symmetric)
    values = np.linspace(*ends, 1000, dtype=np.float32)

    found = grid.restored(grid.quantized(values))

    assert grid.restored(grid.quantized(np.zeros(1, np.float32)))[0] == 0.0
    # The zero point is rounded too, so that the ends may be clipped by another half a step.
    assert np.abs(found - values).max() <= float(grid.scale) * 1.001
    assert np.abs(found - values)[10:-10].max() <= float(grid.scale) * 0.501


def test_symmetric_bytes_have_zero_in_the_middle() -> None:
    assert int(grid_of(-1, 3, "int8", symmetric=True).zero) == 0
    assert int(grid_of(-1, 3, "uint8", symmetric=True).zero) == 128
    assert int(grid_of(0, 6, "uint8", symmetric=False).zero) == 0
    assert int(grid_of(0, 6, "int8", symmetric=False).zero) == -128


def test_integers_are_those_of_the_operator() -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    grid = grid_of(-0.7, 1.9, "uint8", symmetric=False)
    values = RNG.uniform(-2, 3, 4096).astype(np.float32)
    values[:5] = float(grid.scale) * np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)  # ties
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])

    (expected,) = ReferenceEvaluator(node).run(None, {"x": values, "s": grid.scale, "z": grid.zero})

    np.testing.assert_array_equal(grid.quantized(values), expected)


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_end_at_their_largest_magnitude_channel_by_channel(bits: int) -> None:
    weights = (
        RNG.normal(size=(3, 4, 2)).astype(np.float32)
        * np.array([1, 10, 100, 0], np.float32)[:, None]
    )
    grid = weight_grid(weights, 1, bits)
    integers = grid.quantized(weights)

    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max(axis=(0, 2)).tolist() == [2 ** (bits - 1) - 1] * 3 + [0]
    error = np.abs(grid.restored(integers) - weights).max(axis=(0, 2))
    assert (error <= grid.scale * 0.501).all()
    assert weight_grid(weights, None).scale.shape == ()


def test_a_bias_of_a_dead_channel_survives() -> None:
    weights = np.zeros((3, 8), np.float32)
    weights[0] = 1e-12
    weights[1] = 0.5
    bias = np.array([0.3, -2.0, 40.0], np.float32)
    inputs = grid_of(0, 6, "uint8", symmetric=False)

    grid = with_room_for(bias, inputs, weight_grid(weights, 0))
    made = bias_grid(inputs, grid)
    found = made.restored(made.quantized(bias))

    np.testing.assert_allclose(found, bias, rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(grid.scale[1], weight_grid(weights, 0).scale[1])
    whole = with_room_for(bias, inputs, weight_grid(weights[2:], None))
    one = bias_grid(inputs, whole)
    np.testing.assert_allclose(one.restored(one.quantized(bias)), bias, rtol=1e-6, atol=1e-4)


def test_a_bias_of_nothing_has_no_scale_of_nothing() -> None:
    inputs = grid_of(0, 1e-6, "uint8", symmetric=False)
    made = bias_grid(inputs, weight_grid(np.zeros((2, 3), np.float32), 0))

    assert (made.scale > 0).all()
    assert made.quantized(np.zeros(2, np.float32)).tolist() == [0, 0]


def test_a_constant_tensor_has_a_scale() -> None:
    assert float(grid_of(0, 0, "uint8", symmetric=False).scale) == 1.0
    assert float(grid_of(0, 0, "int8", symmetric=True).scale) == 1.0


def test_limits_of_fewer_bits() -> None:
    assert limits(np.dtype(np.int8), 7) == (-64, 63)
    assert limits(np.dtype(np.uint8)) == (0, 255)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_best_grid_of_weights_has_the_least_squared_error(axis: int | None) -> None:
    values = np.random.default_rng(4).standard_t(2, size=(60, 400)).astype(np.float32)
    usual, best = weight_grid(values, axis, 4), best_weight_grid(values, axis, 4)

    def errors(grid: Grid) -> NDArray[Any]:
        wrong = np.square(grid.restored(grid.quantized(values)) - values)
        return np.asarray(wrong.sum(axis=None if axis is None else 1 - axis))

    assert best.axis == axis
    assert best.scale.shape == usual.scale.shape
    assert (errors(best) <= errors(usual)).all()
    assert errors(best).sum() < 0.9 * errors(usual).sum()
    for share in (0.9, 0.7, 0.5):
        other = Grid(np.asarray(usual.scale * share, np.float32), usual.zero, axis, 4)
        assert (errors(best) <= errors(other) * 1.0001).all()


def test_the_best_grid_of_nothing_is_the_usual() -> None:
    nothing = np.zeros((2, 3), np.float32)

    best = best_weight_grid(nothing, 0)

    np.testing.assert_array_equal(best.scale, weight_grid(nothing, 0).scale)
