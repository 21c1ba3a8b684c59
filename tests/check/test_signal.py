"""Signal-to-noise ratios, and graphs that add up squares themselves."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from deploykit.check.signal import MOST_DB, Signal, signals, tap
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("signal", "noise", "db"),
    [(100.0, 1.0, 20.0), (1.0, 1.0, 0.0), (1.0, 10.0, -10.0), (5.0, 0.0, MOST_DB),
     (1.0, 1e-30, MOST_DB), (0.0, 1.0, None), (0.0, 0.0, None), (inf, 1.0, None),
     (1.0, inf, None)],
)  # fmt: skip
def test_decibels(signal: float, noise: float, db: float | None) -> None:
    assert Signal(signal, noise).db == db


def test_sums_go_on_over_batches() -> None:
    rng = np.random.default_rng(0)
    wanted, found = rng.normal(size=(2, 6, 5)).astype(np.float32)
    sums = Signal()
    sums.add(wanted[:2], found[:2])
    sums.add(wanted[2:], found[2:])

    noise = np.square(wanted.astype(float) - found).sum()
    assert sums.db == pytest.approx(10 * np.log10(np.square(wanted.astype(float)).sum() / noise))


def _rounding_graph(path: Path, opset: int) -> Path:
    text = f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[N,3] x) => (float[N,3] y)
        {{
            y = Floor(x)
        }}
    """
    model = onnx.parser.parse_model(text)
    tap(model.graph, "a/b", "x", "y")
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("opset", [13, 18])
def test_a_graph_adds_up_what_it_compares(tmp_path: Path, opset: int) -> None:
    path = _rounding_graph(tmp_path / "net.onnx", opset)
    batches = [
        np.array([[0.5, 1.25, 2.0]], np.float32),
        np.array([[4.5, 8.0, -0.5]] * 2, np.float32),
    ]

    found = signals(path, ["a/b"], [{"x": batch} for batch in batches], threads=1)

    values = np.concatenate(batches)
    assert found["a/b"].signal == pytest.approx(np.square(values).sum())
    assert found["a/b"].noise == pytest.approx(np.square(values - np.floor(values)).sum())


def test_inputs_that_do_not_fit_are_told_in_one_line(tmp_path: Path) -> None:
    path = _rounding_graph(tmp_path / "net.onnx", 17)

    with pytest.raises(BadInputError) as raised:
        signals(path, ["a/b"], [{"x": np.zeros((1, 4), np.float32)}], threads=1)
    assert "\n" not in str(raised.value)
