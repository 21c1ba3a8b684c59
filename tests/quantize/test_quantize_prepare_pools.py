"""Means over all positions become pools; other means stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

if TYPE_CHECKING:
    from tests.quantize.conftest import MakeModel, Prove, Weights

IMAGES = "(float[N,4,6,6] x)"
CONV: Weights = {"w": (4, 4, 3, 3)}


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("axes", ["[2,3]", "[-1,-2]", "[3,2]"])
def test_a_mean_over_positions_is_a_pool(
    opset: int, axes: str, make_model: MakeModel, prove: Prove
) -> None:
    text = f"{IMAGES} => (float[N,4,1,1] y) {{ c = Conv(x, w) y = ReduceMean<axes={axes}>(c) }}"

    prepared = prove(make_model(text, CONV, opset))

    assert [node.op_type for node in prepared.model.graph.node] == ["Conv", "GlobalAveragePool"]
    assert prepared.pooled == ("y",)
    onnx.checker.check_model(prepared.model, full_check=True)


def test_one_that_drops_the_positions_is_flattened(make_model: MakeModel, prove: Prove) -> None:
    text = f"{IMAGES} => (float[N,4] y) {{ c = Conv(x, w) y = ReduceMean<keepdims=0>(c, axes) }}"

    prepared = prove(make_model(text, {**CONV, "axes": np.array([2, 3])}, 18))

    kinds = [node.op_type for node in prepared.model.graph.node]
    assert kinds == ["Conv", "GlobalAveragePool", "Flatten"]
    assert len({node.name for node in prepared.model.graph.node}) == 3


def test_sequences_are_pooled_too(make_model: MakeModel, prove: Prove) -> None:
    mean = "ReduceMean<keepdims=0>(c, axes)"
    text = f"(float[N,4,9] x) => (float[N,4] y) {{ c = Conv(x, w) y = {mean} }}"

    prepared = prove(make_model(text, {"w": (4, 4, 3), "axes": np.array([2])}, 20))

    assert prepared.pooled == ("y",)


@pytest.mark.parametrize(
    "mean",
    [
        "ReduceMean<axes=[1,2,3]>(c)",
        "ReduceMean<axes=[2]>(c)",
        "ReduceMean<axes=[1]>(c)",
        "ReduceMean(c)",
        "ReduceMax<axes=[2,3]>(c)",
    ],
)
def test_other_means_stay(mean: str, make_model: MakeModel, prove: Prove) -> None:
    text = f"{IMAGES} => (float[A,B,C,D] y) {{ c = Conv(x, w) y = {mean} }}"

    prepared = prove(make_model(text, CONV))

    assert prepared.pooled == ()
    assert "GlobalAveragePool" not in [node.op_type for node in prepared.model.graph.node]
