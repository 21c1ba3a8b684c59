"""The table of a network: from counts to latencies, and once from the real runtime."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deploykit.bench.layer_grid import Surface, grid_of, points_of
from deploykit.bench.layer_shapes import LayerShape
from deploykit.bench.layer_table import LatencyTable, fast_counts, measure_table
from deploykit.core.errors import BadInputError
from deploykit.core.measurement import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONV = LayerShape("conv", 8, 8, 1, (6, 6), (3, 3), (1, 1), (1,) * 4, (1, 1), relu=True)
HEAD = LayerShape("gemm", 8, 3)


def _table(latency_ns: Callable[[int, int], float]) -> LatencyTable:
    layers = {"a.weight": CONV, "b.weight": CONV, "head.weight": HEAD}
    surfaces = {
        shape: Surface(
            shape, grid_of(shape), {p: latency_ns(*p) for p in points_of(shape, grid_of(shape))}
        )
        for shape in (CONV, HEAD)
    }
    return LatencyTable(layers, surfaces)


def test_a_network_takes_as_long_as_its_layers_together() -> None:
    table = _table(lambda i, o: 10.0 * i * o)

    assert table.latency_ns(CONV, 4, 8) == pytest.approx(320)
    assert table.predict({}) == pytest.approx(640 + 640 + 240)
    assert table.predict({"a.weight": (8, 4), "b.weight": (4, 8)}) == pytest.approx(320 + 320 + 240)


def test_what_the_table_does_not_know_is_refused_by_name() -> None:
    table = _table(lambda i, o: 1.0)

    with pytest.raises(BadInputError, match=r"no layer 'a\.weigth'; did you mean 'a\.weight'\?$"):
        table.predict({"a.weigth": (4, 4)})
    with pytest.raises(BadInputError, match=r"^gemm 9->9 was not timed; known: conv 8->8 3x3"):
        table.latency_ns(LayerShape("gemm", 9, 9), 1, 1)
    with pytest.raises(BadInputError, match=r'^a side is "in" or "out", not \'up\'$'):
        table.good_counts(CONV, "up")


def test_good_counts_are_those_that_no_larger_one_is_as_fast_as() -> None:
    """INT8 with VNNI at 28x28: 179 us with 32 channels, 104 with 16, 134 with 8."""
    assert fast_counts({8: 134.0, 16: 104.0, 32: 179.0}) == (16, 32)
    assert fast_counts({8: 99.0, 16: 100.0}, tolerance=0.02) == (16,), "within the noise"
    assert fast_counts({8: 99.0, 16: 100.0}, tolerance=0.001) == (8, 16)
    assert fast_counts({}) == ()
    slow_when_small = _table(lambda i, o: 100.0 if o >= 8 else 130.0)
    assert slow_when_small.good_counts(CONV) == (8,)
    assert slow_when_small.good_counts(CONV, "in") == (8,)


def test_a_network_too_small_to_check_has_no_error_figure() -> None:
    assert _table(lambda i, o: 1.0).error() is None


@pytest.mark.parametrize("precision", ["float32", "int8", "float16"])
def test_a_real_table(tmp_path: Path, precision: str) -> None:
    """Every kind of layer runs here; a second table of the same layers times nothing."""
    kinds = (
        LayerShape("conv", 8, 8, 1, (6, 6), (3, 3), (2, 2), (1,) * 4, (1, 1), relu=True,
                   precision=precision),
        LayerShape("conv", 8, 8, 1, (6,), (3,), (1,), (1, 1), (1,), groups=8, bias=False,
                   precision=precision),
        LayerShape("conv_transpose", 8, 8, 1, (6, 6), (2, 2), (2, 2), (0,) * 4, (1, 1), (1, 1),
                   precision=precision),
        LayerShape("gemm", 8, 3, 2, precision=precision),
        LayerShape("matmul", 8, 8, 2, (5,), relu=True, precision=precision),
    )  # fmt: skip
    layers = {str(number): shape for number, shape in enumerate((*kinds, kinds[0]))}
    told: list[float | None] = []

    table = measure_table(
        layers, Target("ort-cpu", threads=1), tmp_path, budget_s=0.01,
        progress=lambda message, share: told.append(share),
    )  # fmt: skip

    assert len(table.surfaces) == len(kinds)
    assert table.predict({"0": (8, 4)}) > 0
    assert all(table.latency_ns(s, s.inputs, s.outputs) > 0 for s in kinds)
    assert told
    assert all(share is not None and 0 < share <= 1 for share in told)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]

    (kept,) = tmp_path.iterdir()
    raw = json.loads(kept.read_text())
    for timing in raw["timings"]:
        timing["blocks_ns"] = [7000.0] * 3  # steady: nothing is left to time
    kept.write_text(json.dumps(raw))
    again = measure_table(
        layers, Target("ort-cpu", threads=1), tmp_path, progress=lambda message, share: None
    )
    assert again.predict({}) == pytest.approx(len(layers) * 7000)


def test_another_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"on ort-cpu only, not on torch-eager$"):
        measure_table(
            {"a": CONV}, Target("torch-eager"), tmp_path, progress=lambda message, share: None
        )
