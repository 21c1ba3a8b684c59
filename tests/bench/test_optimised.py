"""Nodes that ONNX Runtime leaves in float between quantizers are found by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from deploykit.bench.optimised import Leftovers, left_in_float, leftovers
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


def _leftovers(tmp_path: Path, body: str, opset: int = 17) -> Leftovers:
    text = f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[2,8] x) => (float[2,8] y)
        <float s = {{0.05}}, uint8 z = {{128}}, float t = {{0.11}}, uint8 u = {{3}},
         int8[8,8] w = {{{", ".join(["1", "2"] * 32)}}}, float ws = {{0.1}}, int8 wz = {{0}}>
        {{
            {body}
        }}
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    return leftovers(load_artifact(tmp_path / "net.onnx"))


def test_a_quantizer_that_only_rounds_is_an_orphan(tmp_path: Path) -> None:
    found = _leftovers(
        tmp_path, f"""{PAIR.format("x")} [middle] y = Softmax(x_d)"""
    )  # fmt: skip

    assert [(one.op, one.blames) for one in found.orphans] == [("QuantizeLinear", ("middle",))]
    assert found.orphans[0].why == (
        "rounds what Softmax middle reads in float: no integer kernel reads it"
    )
    assert found.floats == ()


def test_weights_that_become_floats_are_an_orphan(tmp_path: Path) -> None:
    """A convolution that gives floats has no integer kernel."""
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1,2,4,4] x) => (float[1,2,4,4] y)
        <float s = {{0.05}}, uint8 z = {{128}}, int8[2,2,1,1] w = {{1, 2, 3, 4}},
         float ws = {{0.1}}, int8 wz = {{0}}>
        {{
            {PAIR.format("x")} wd = DequantizeLinear(w, ws, wz) [middle] y = Conv(x_d, wd)
        }}
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")

    found = leftovers(load_artifact(tmp_path / "net.onnx")).orphans

    assert [(one.op, one.blames) for one in found] == [
        ("QuantizeLinear", ("middle",)), ("DequantizeLinear", ("middle",)),
    ]  # fmt: skip
    assert found[1].why == "makes floats of weights that Conv middle reads in float, in each call"


def test_a_change_of_scale_between_kernels_is_an_orphan(tmp_path: Path) -> None:
    """ONNX Runtime joins two pairs in a row, but not where somebody reads between them."""
    found = _leftovers(
        tmp_path,
        f"{PAIR.format('x')} n_q = QuantizeLinear(x_d, t, u) n_d = DequantizeLinear(n_q, t, u) "
        "wd = DequantizeLinear(w, ws, wz) o = MatMul(n_d, wd) p = MatMul(x_d, wd) y = Add(o, p)",
    )

    changes = [one for one in found.orphans if "changes the scale of" in one.why]
    assert [(one.op, one.blames) for one in changes] == [("QuantizeLinear", ())], found


def test_a_product_in_integers_leaves_nothing(tmp_path: Path) -> None:
    body = "wd = DequantizeLinear(w, ws, wz) [middle] y = MatMul(x_d, wd)"

    assert _leftovers(tmp_path, f"{PAIR.format('x')} {body}") == Leftovers()
