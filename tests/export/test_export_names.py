"""Names and sizes at the borders of a graph: several inputs, nested outputs, steps, clashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, TensorSpec
from deploykit.flow.verify import parity, parity_sizes
from deploykit.load.calls import run_module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploykit.core.types import OnnxArtifact
    from deploykit.load.data import Array
    from tests.export.conftest import Export


def agrees(artifact: OnnxArtifact, module: nn.Module) -> bool:
    """Whether the artifact and the network give the same at all sizes."""

    def reference(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return run_module(module, artifact.inputs, feeds)

    checks = parity(artifact, reference, None)
    assert len(checks.checks) == len(parity_sizes(artifact.inputs)) or checks.failure
    return checks.failure is None


class Minus(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - 2 * b


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a"), ("photo", "depth")])
def test_two_inputs_share_a_dimension_in_whatever_order(
    export: Export, names: tuple[str, str]
) -> None:
    first, second = names
    artifact = export(Minus(), f"{first}=N[1..8]x3", f"{second}=Nx3").artifact

    assert [spec.name for spec in artifact.inputs] == [first, second]
    assert {spec.shape for spec in artifact.inputs} == {(Dim("N", 1, 8), 3)}
    assert artifact.outputs[0].shape == (Dim("N", 1, 8), 3)
    assert agrees(artifact, Minus())


class AnyNumber(nn.Module):
    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return parts[0] - 2 * parts[1]


def test_a_network_that_takes_any_number_of_inputs(export: Export) -> None:
    artifact = export(AnyNumber(), "a=N[1..8]x3", "b=Nx3").artifact

    assert [spec.name for spec in artifact.inputs] == ["a", "b"]
    assert agrees(artifact, AnyNumber())


class DownUp(nn.Module):
    """An encoder-decoder in small: takes sizes in steps only."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 2, 3, 2, 1)
        self.up = nn.ConvTranspose2d(2, 1, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.up(self.down(x))  # type: ignore[no-any-return]


def test_steps_keep_their_names_outside_and_are_told_inside(export: Export) -> None:
    module = DownUp()
    written = export(module, "x=N[1..2]x1xH[4..16:4]xW[4..12:4]")
    shape = (Dim("N", 1, 2), 1, Dim("H", 4, 16, 4), Dim("W", 4, 12, 4))
    inner = {
        dim.dim_param
        for value in written.graph.value_info
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }

    assert written.artifact.inputs[0].shape == shape
    assert written.artifact.outputs[0].shape == shape
    assert not {word for word in inner if "s" in word or "_" in word}  # no counters of torch's
    assert agrees(written.artifact, module)


@pytest.mark.parametrize(("text", "size"), [("N[1..1]", 1), ("N[3..3]", 3)])
def test_a_range_of_one_size_is_that_size(export: Export, text: str, size: int) -> None:
    module = nn.Linear(3, 2)
    artifact = export(module, f"x={text}x3").artifact

    assert artifact.outputs[0].shape == (size, 2)
    assert agrees(artifact, module)


class Nested(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, object]:
        return {"classes": x + 1, "levels": [x, None, x.mean()], "count": torch.arange(x.shape[0])}


def test_outputs_have_the_names_of_the_networks_own_structure(export: Export) -> None:
    artifact = export(Nested(), "x=N[1..8]x3").artifact

    assert artifact.outputs == (
        TensorSpec("classes", "float32", (Dim("N", 1, 8), 3)),
        TensorSpec("levels_0", "float32", (Dim("N", 1, 8), 3)),
        TensorSpec("levels_2", "float32", ()),
        TensorSpec("count", "int64", (Dim("N", 1, 8),)),
    )
    assert agrees(artifact, Nested())


class Clash(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.relu(self.fc(x))
        return {"relu": torch.relu(y - 0.1) * 2, "fc.bias": y + 1}


@pytest.mark.parametrize("name", ["x", "linear", "fc.weight", "add"])
def test_users_names_win_over_those_inside(export: Export, name: str) -> None:
    module = Clash()
    artifact = export(module, f"{name}=N[1..8]x3").artifact

    assert [spec.name for spec in artifact.inputs] == [name]
    assert [spec.name for spec in artifact.outputs] == ["relu", "fc.bias"]
    assert agrees(artifact, module)


class InPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2


def test_a_network_that_changes_its_input_changes_no_one_elses(export: Export) -> None:
    artifact = export(InPlace(), "x=N[1..8]x3").artifact
    fed = {"x": np.zeros((1, 3), np.float32)}

    assert run_module(InPlace(), artifact.inputs, fed)["output"].tolist() == [[2.0, 2.0, 2.0]]
    assert fed["x"].tolist() == [[0.0, 0.0, 0.0]]
    assert agrees(artifact, InPlace())


class Echo(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x * 2}


class WithNumber(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x + 1, 3


class WithSize(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x + 1, x.shape[0]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            Echo(),
            (
                "'x' is the name of an input and of an output: declare the input under another "
                "name, such as x_in"
            ),
        ),
        (
            WithNumber(),
            "the network returned a int as 'output_1': only tensors can be exported",
        ),
        (
            WithSize(),
            "the network returned a SymInt as 'output_1': only tensors can be exported",
        ),
    ],
)
def test_outputs_that_cannot_be_named_are_refused(
    export: Export, module: nn.Module, words: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        export(module, "x=N[1..8]x3")
    assert str(caught.value) == words
