"""Recurrent layers are captured as they were, without being run step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, Model, TensorSpec
from deploykit.load.capture import capture
from deploykit.load.quiet import quiet_torch
from deploykit.load.recurrent import shapes_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.export import ExportedProgram

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(8, 6, batch_first=True),
    "deep": lambda: nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(8, 6, proj_size=4, batch_first=True),
    "gru": lambda: nn.GRU(8, 6, bidirectional=True, batch_first=True),
    "tanh": lambda: nn.RNN(8, 6, batch_first=True),
    "relu": lambda: nn.RNN(8, 6, nonlinearity="relu", bias=False, batch_first=True),
}


class Tagger(nn.Module):
    """What a recurrent layer gives, and its last states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        """Outputs and states."""
        given, states = self.layer(x)
        return given.relu(), *((states,) if isinstance(states, torch.Tensor) else states)


def shapes(program: ExportedProgram) -> list[tuple[str, list[str]]]:
    found = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        values = value if isinstance(value, tuple | list) else [value]
        found.append((str(node), [str(getattr(one, "shape", one)) for one in values]))
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_graph_and_shapes_are_those_of_a_capture_that_runs_it(name: str) -> None:
    module = Tagger(LAYERS[name]()).eval()
    x = torch.rand(3, 5, 8)
    sizes: Any = {"x": {0: torch.export.Dim("N", min=1, max=9)}}

    def captured() -> ExportedProgram:
        with torch.no_grad(), quiet_torch():
            return torch.export.export(module, (x,), dynamic_shapes=sizes, strict=False)

    plain = captured()
    with shapes_only():
        quick = captured()

    assert str(quick.graph) == str(plain.graph)
    assert shapes(quick) == shapes(plain)
    again = captured()
    assert str(again.graph) == str(plain.graph)


@pytest.mark.parametrize("name", LAYERS)
def test_a_dynamic_length_is_refused(name: str) -> None:
    spec = TensorSpec("x", "float32", (Dim("N", 1, 9), Dim("T", 1, 9), 8))

    with pytest.raises(BadInputError, match="marked T as dynamic"):
        capture(Model(Tagger(LAYERS[name]()).eval(), (spec,)))


def test_real_tensors_are_computed_meanwhile() -> None:
    layer, x = LAYERS["lstm"]().eval(), torch.rand(2, 5, 8)
    expected = layer(x)[0]

    with shapes_only(), torch.no_grad():
        found = layer(x)[0]

    torch.testing.assert_close(found, expected)
