"""Times of fused and renamed nodes find the layer that they belong to."""

from __future__ import annotations

import pytest

from deploykit.bench.by_layer import times_by_layer
from deploykit.bench.profile import NodeTime


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("conv", "conv"), ("relu_nchwc", "conv"), ("conv_token_17", "conv"), ("fused conv", "conv"),
        ("relu/QuantizeLinear/duplicated", "conv"), ("ReorderOutput", ""), ("convex", ""),
    ],
)  # fmt: skip
def test_names_of_the_runtime(name: str, layer: str) -> None:
    owners = {"conv": "conv", "relu": "conv", "relu/QuantizeLinear": "conv", "head": "head"}

    found = times_by_layer([NodeTime(name, "Conv", "CPU", 1.0, 7.0)], owners)

    assert found == {"conv": 0.0, "head": 0.0, "": 0.0} | {layer: 7.0}


def test_times_add_up() -> None:
    times = [NodeTime(name, "Conv", "CPU", 1.0, 2.0) for name in ("conv", "relu_nchwc", "other")]

    assert times_by_layer(times, {"conv": "conv", "relu": "conv"}) == {"conv": 4.0, "": 2.0}
