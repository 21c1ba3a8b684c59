"""Nodes that ONNX Runtime leaves in float between quantizers are found by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from deploykit.bench.optimised import left_in_float
from deploykit.load.artifacts import load_artifact

if TYPE_CHECKING:
    from pathlib import Path

PAIR = "{0}_q = QuantizeLinear({0}, s, z) {0}_d = DequantizeLinear({0}_q, s, z)"


@pytest.mark.parametrize(
    ("op", "left"), [("Sigmoid", ()), ("Tanh", ("Tanh middle",)), ("Relu", ("Relu middle",))]
)
def test_what_has_no_integer_kernel_is_named(
    op: str, left: tuple[str, ...], tmp_path: Path
) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,8] x) => (float[2,8] y_d)
        <float s = {{0.05}}, uint8 z = {{128}}>
        {{
            {PAIR.format("x")}
            [middle] y = {op}(x_d)
            {PAIR.format("y")}
        }}
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")

    assert left_in_float(load_artifact(tmp_path / "net.onnx")) == left
