"""Counts that are timed, and the formula between them."""

from __future__ import annotations

import pytest

from deploykit.bench.layer_grid import Surface, between, grid_of, points_of
from deploykit.bench.layer_shapes import LayerShape
from deploykit.core.errors import BadInputError

SHAPE = LayerShape("matmul", 32, 64)
DEPTHWISE = LayerShape("conv", 8, 16, 1, (5, 5), (1, 1), (1, 1), (0,) * 4, (1, 1), groups=8)


def _stair(count: int) -> float:
    """A kernel that works in blocks of 16 and is slow below one."""
    return -(-count // 16) * 100.0 if count >= 16 else 130.0


def test_lines_are_close_and_end_at_the_full_counts() -> None:
    grid = grid_of(SHAPE)

    assert grid.inputs == (4, 8, 12, 16, 20, 24, 28, 32)
    assert grid.outputs == tuple(range(4, 65, 4))
    assert len(grid_of(LayerShape("matmul", 2048, 10)).inputs) == 16
    assert grid_of(LayerShape("matmul", 3, 10)).inputs == (3,), "an image's colours are not pruned"


def test_counts_of_grouped_layers_are_multiples_of_their_groups() -> None:
    grid = grid_of(LayerShape("conv", 24, 48, 1, (5,), (1,), (1,), (0, 0), (1,), groups=6))

    assert grid.inputs == (12, 24)
    assert grid.outputs == (12, 24, 36, 48)


def test_a_depthwise_layer_has_one_line() -> None:
    points = points_of(DEPTHWISE, grid_of(DEPTHWISE))
    surface = Surface(DEPTHWISE, grid_of(DEPTHWISE), {pair: 10.0 * pair[0] for pair in points})

    assert points == ((4, 8), (8, 16))
    assert surface.at(6, 12) == 60.0
    assert surface.line("out") == {4: 40.0, 8: 80.0}


def test_a_product_of_stairs_is_met_everywhere_it_was_not_timed() -> None:
    grid = grid_of(SHAPE)
    timed = {(i, o): _stair(i) * _stair(o) for i, o in grid.points}
    surface = Surface(SHAPE, grid, timed)

    for i in grid.inputs:
        for o in grid.outputs:
            assert surface.at(i, o) == pytest.approx(_stair(i) * _stair(o))
    assert surface.line("out")[8] > surface.line("out")[16], "not monotone, and kept so"
    assert surface.errors() == pytest.approx((0.0, 0.0, 0.0))


def test_checks_are_timed_and_tell_the_error_but_do_not_decide() -> None:
    grid = grid_of(SHAPE)
    timed = dict.fromkeys(grid.points, 100.0)
    spoilt = Surface(SHAPE, grid, timed | dict.fromkeys(grid.checks, 80.0))

    assert len(grid.checks) == 3
    assert spoilt.at(*grid.checks[0]) == pytest.approx(100.0)
    assert spoilt.errors() == pytest.approx((0.25, 0.25, 0.25))


def test_the_nodes_mend_what_is_no_product_of_lines() -> None:
    """A fixed cost a call: t = 50 + i * o is far from a product where both are small."""
    grid = grid_of(SHAPE)
    surface = Surface(SHAPE, grid, {(i, o): 50.0 + i * o for i, o in grid.points})

    for i in grid.node_inputs:
        for o in grid.node_outputs:
            assert surface.at(i, o) == pytest.approx(50.0 + i * o)
    assert max(map(abs, surface.errors())) < 0.1


def test_between_neighbours_it_is_linear_and_beyond_the_ends_constant() -> None:
    assert between((4, 8, 12), (1.0, 5.0, 3.0), 6) == 3.0
    assert between((4, 8, 12), (1.0, 5.0, 3.0), 11) == 3.5
    assert between((4, 8, 12), (1.0, 5.0, 3.0), 2) == 1.0
    assert between((4,), (1.0,), 9) == 1.0


def test_more_than_the_full_counts_is_refused() -> None:
    grid = grid_of(SHAPE)
    surface = Surface(SHAPE, grid, dict.fromkeys(grid.points, 1.0))

    with pytest.raises(BadInputError, match=r"^matmul 32->64 has no latency for 33 inputs and 64"):
        surface.at(33, 64)
