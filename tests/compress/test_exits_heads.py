"""Which head a layer gets, in networks of every layout; and what cannot have one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deploykit.compress.exits.heads import heads_for
from deploykit.compress.exits.network import MultiExit
from deploykit.compress.exits.options import ExitsOptions
from deploykit.core.errors import BadInputError
from deploykit.load.calls import Arguments
from deploykit.nets.resnet import resnet


class Tokens(nn.Module):
    """[N, L, C] inside, and [N, H, W, C] at its end, as hierarchical transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 12, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
        self.merge = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20))
        self.head = nn.Linear(20, 5)
        self.twice = nn.Identity()
        self.flat = nn.Flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(self.twice(self.twice(x))).flatten(2).transpose(1, 2)
        tokens = self.block(tokens)
        self.flat(tokens)
        found = self.merge(tokens.unflatten(1, (7, 7)))
        logits: Tensor = self.head(found.mean((1, 2)))
        return logits


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(x).mean(2))
        return logits


def _given(*shape: int) -> Arguments:
    return Arguments((torch.randn(2, *shape),), {})


def test_channels_are_found_wherever_they_lie() -> None:
    plan = heads_for(Tokens().eval(), _given(1, 28, 28), ("merge", "embed", "block"), "auto")
    found = [(one.layer, one.channels, one.dimensions, one.normed) for one in plan.exits]
    assert found == [("embed", 12, 2, False), ("block", 12, 1, True), ("merge", 20, 2, True)]
    assert [one.kind for one in plan.exits] == ["conv", "pool", "pool"]
    assert plan.classes == 5
    signal = heads_for(Signal().eval(), _given(3, 40), ("block",), "auto").exits[0]
    assert (signal.channels, signal.dimensions, signal.kind) == (6, 1, "conv")


def test_exits_are_in_the_order_of_computation_whatever_the_order_of_naming() -> None:
    net = resnet(channels=(4, 8, 8), blocks=1, in_channels=1, classes=3).eval()
    plan = heads_for(net, _given(1, 16, 16), ("stages.1", "stem", "stages.0"), "pool")
    assert [one.layer for one in plan.exits] == ["stem", "stages.0", "stages.1"]
    outputs = MultiExit(net, plan).eval()(torch.randn(3, 1, 16, 16))
    assert list(outputs) == ["output", "exit1", "exit2", "exit3"]
    assert {tuple(one.shape) for one in outputs.values()} == {(3, 3)}


@pytest.mark.parametrize(
    ("layer", "head", "text"),
    [
        ("blok", "auto", "no layer 'blok'; did you mean 'block"),
        ("twice", "auto", "called 2 times"),
        ("head", "auto", "the network's own end"),
        ("flat", "auto", "one row a sample"),
        ("block.self_attn.out_proj", "auto", "called 0 times"),
    ],
)
def test_a_layer_that_cannot_have_an_exit_is_refused(layer: str, head: str, text: str) -> None:
    with pytest.raises(BadInputError) as caught:
        heads_for(Tokens().eval(), _given(1, 28, 28), (layer,), head)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"exits": 0}, "1 or more, not 0"),
        ({"head": "pol"}, "did you mean 'pool"),
        ({"at": ("a", "a")}, "named twice"),
        ({"at": ("a", "b"), "exit_weights": (1.0, 1.0, 1.0)}, "3 numbers for 2 exits"),
        ({"exit_weights": (0.0,)}, "above 0, not 0"),
        ({"distill": 1.5}, "from 0 to 1, not 1.5"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(BadInputError) as caught:
        ExitsOptions(**options)  # type: ignore[arg-type]
    assert text in str(caught.value)
