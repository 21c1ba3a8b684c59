"""What to round channel counts to, read from curves of known shape, and once from the runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from deploykit.bench.alignment import (
    Alignment,
    CountLatency,
    Curve,
    aligned_to,
    counts_to_time,
    measure_alignment,
    mirrored,
    typical,
)
from deploykit.bench.layer_shapes import LayerShape
from deploykit.core.measurement import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONV = LayerShape("conv", 32, 64, 1, (28, 28), (3, 3), (2, 2), (1,) * 4, (1, 1))


def _curve(latency_ns: Callable[[int], float], full: int = 64) -> Curve:
    shape = LayerShape("matmul", full, full)
    points = (CountLatency(count, latency_ns(count)) for count in counts_to_time(shape))
    return Curve("writer", "reader", full, tuple(points))


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def test_a_stair_is_taken_step_by_step() -> None:
    """Blocks of 16: fewer channels than a whole block cost as much as the block."""
    found = aligned_to([_curve(lambda c: 100.0 * _up(c, 16))])

    assert found.step == 16
    assert found.counts(64) == (16, 32, 48, 64)
    assert found.counts(100) == (16, 32, 48, 64, 80, 96, 100)


def test_a_straight_line_wants_no_rounding() -> None:
    found = aligned_to([_curve(lambda c: 100.0 * c)])

    assert found.step <= 2, "one channel in fifty is below the tolerance"
    assert found.costs[0].cost == 0
    assert all(cost.regret > 0 for cost in found.costs[1:])


def test_slow_remainders_want_rounding_although_the_line_is_straight() -> None:
    """A vector loop over 4 channels with a scalar loop behind it."""
    found = aligned_to([_curve(lambda c: 100.0 * (c + 30 * (c % 4 > 0)))])

    assert found.step == 4
    assert next(cost.cost for cost in found.costs if cost.step == 4) < -0.1


def test_the_foot_of_a_stair_does_not_decide() -> None:
    """17 channels may be a little faster than 32: 16 are half as slow, and 18 to 31 are not."""
    found = aligned_to([_curve(lambda c: 100.0 * _up(c, 16) * (0.95 if c % 16 == 1 else 1))])

    assert found.step == 16


def test_what_one_pair_pays_another_can_gain() -> None:
    fine, coarse = _curve(lambda c: 100.0 * _up(c, 4)), _curve(lambda c: 100.0 * _up(c, 8))

    assert aligned_to([coarse]).step == 8
    assert aligned_to([fine]).step == 4
    assert aligned_to([fine, coarse]).step == 4


def test_counts_that_are_slower_than_larger_ones_are_not_offered() -> None:
    """The figures of INT8 with VNNI: 8 channels take longer than 16."""
    known = {8: 134.0, 16: 104.0, 24: 150.0, 32: 179.0}
    points = tuple(CountLatency(count, ns) for count, ns in known.items())
    found = Alignment(8, curves=(Curve("writer", "reader", 32, points),))

    assert found.counts(32) == (16, 24, 32)


def test_a_network_of_small_layers_is_left_alone(tmp_path: Path) -> None:
    layers = {"a": LayerShape("gemm", 8, 8)}

    found = measure_alignment(
        layers, Target("ort-cpu"), tmp_path, progress=lambda message, share: None
    )

    assert (found.step, found.curves) == (1, ())
    assert found.counts(5) == (1, 2, 3, 4, 5)


def test_the_reader_takes_what_the_writer_gives() -> None:
    reader = mirrored(CONV)

    assert (reader.inputs, reader.outputs) == (64, 32)
    assert (reader.spatial, reader.stride) == ((14, 14), (1, 1))
    assert mirrored(reader).spatial == (14, 14)
    to_a_point = LayerShape("conv", 16, 120, 1, (5, 5), (5, 5), (1, 1), (0,) * 4, (1, 1))
    assert mirrored(to_a_point).kernel == (1, 1)


def test_the_costliest_layers_are_timed() -> None:
    heavy, light = LayerShape("gemm", 512, 512), LayerShape("gemm", 16, 16)
    layers = {"a": light, "b": heavy, "c": CONV, "d": LayerShape("gemm", 512, 10),
              "e": replace(CONV, groups=2)}  # fmt: skip

    assert typical(layers) == (CONV, heavy, light)


@pytest.mark.parametrize("full", [16, 32, 64, 512, 1000])
def test_counts_lie_on_and_beside_multiples_of_sixteen(full: int) -> None:
    counts = counts_to_time(LayerShape("gemm", full, full))

    assert list(counts) == sorted(set(counts))
    assert all(0 < count <= full for count in counts)
    assert len(counts) < 50
    multiples = [count for count in counts if count % 16 == 0]
    assert multiples
    assert {multiples[-1] - 1, multiples[-1] - 2} <= set(counts)


def test_a_real_alignment(tmp_path: Path) -> None:
    layers = {"a": LayerShape("gemm", 16, 16, 4)}

    found = measure_alignment(
        layers, Target("ort-cpu", threads=1), tmp_path, budget_s=0.01,
        progress=lambda message, share: None,
    )  # fmt: skip

    assert found.step in (1, 2, 4, 8)
    assert [cost.step for cost in found.costs] == [1, 2, 4, 8]
    (curve,) = found.curves
    assert [point.count for point in curve.points] == list(counts_to_time(layers["a"]))
    assert all(point.latency_ns > 0 for point in curve.points)
