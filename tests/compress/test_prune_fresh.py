"""Initial weights of a smaller network: as wide a spread as if it had been built so small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from deploykit.compress.prune.cutting.fresh import fresh_state
from deploykit.compress.prune.plan import Cut, Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

INITS: dict[str, Callable[[Tensor], object]] = {
    "torch": lambda w: nn.init.kaiming_uniform_(w, a=5**0.5),
    "he-in": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "he-out": lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    "lecun": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "glorot": nn.init.xavier_uniform_,
    "constant": lambda w: nn.init.normal_(w, std=0.02),
}


@pytest.mark.parametrize("name", INITS)
def test_the_spread_is_that_of_a_layer_built_so_small(name: str) -> None:
    torch.manual_seed(0)
    whole, small = torch.empty(96, 64, 3, 3), torch.empty(48, 16, 3, 3)
    for weight in (whole, small):
        INITS[name](weight)
    cuts = (
        Cut("w", 0, 96, tuple(range(0, 96, 2))), Cut("w", 1, 64, tuple(range(0, 64, 4))),
    )  # fmt: skip

    (found,) = fresh_state({"w": whole}, Plan(cuts)).values()

    assert found.shape == small.shape
    assert float(found.std()) == pytest.approx(float(small.std()), rel=0.04)


def test_what_an_author_set_by_hand_stays() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    nn.init.zeros_(layers[1].weight)  # type: ignore[arg-type]  # a norm has one
    built = layers.state_dict()
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    kept = (1, 4, 6)

    found = fresh_state(built, Plan(tuple(Cut(name, 0, 8, kept) for name in names)))

    assert torch.equal(found["0.bias"], built["0.bias"][[1, 4, 6]])
    assert found["1.weight"].tolist() == [0, 0, 0]
    assert found["1.running_var"].tolist() == [1, 1, 1]
    assert int(found["1.num_batches_tracked"]) == 0
    assert built["1.weight"].shape == (8,)


def test_inputs_alone_change_the_fan() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 64)
    cut = Cut("weight", 1, 256, tuple(range(64)))

    found = fresh_state(layer.state_dict(), Plan((cut,)))["weight"]

    assert torch.equal(found, layer.weight.detach()[:, :64] * 2)
