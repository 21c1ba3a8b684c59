"""A graph that was tampered with in the middle: the tensor is found and its module named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from deploykit.check.localise import localise
from deploykit.core.types import Model
from deploykit.export.options import ExportOptions
from deploykit.export.torch_to_onnx import Exported, decomposed, export_model
from deploykit.load.artifacts import files_of
from deploykit.load.inputs import parse_inputs
from deploykit.load.synthetic import synthetic_feeds
from deploykit.runtimes import runtime_named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Net(nn.Module):
    """Three convolutions; an output that is called as a value inside is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.last = nn.Conv2d(4, 2, 1)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = torch.relu(self.middle(torch.relu(self.stem(x)))) * self.scale
        return {"relu": self.last(h)}


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(Net().eval(), parse_inputs(["x=N[1..4]x1x5x5"]))


@pytest.fixture(scope="module")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_model(model, tmp_path_factory.mktemp("localise"), ExportOptions())


def place(exported: Exported, change: Callable[[onnx.ModelProto], None], folder: Path) -> str:
    """What is said once the written graph was changed."""
    graph = onnx.load(exported.artifact.model_path)
    change(graph)
    onnx.save(graph, folder / "model.onnx")
    files = files_of(folder, ("model.onnx",))
    tampered = replace(exported.artifact, files=files, folder=folder)
    assert exported.program is not None
    feeds = synthetic_feeds(tampered.inputs, {"N": 2}, seed=0)
    return localise(exported.program, tampered, runtime_named("ort-cpu"), feeds)


def halve_weight(scope: str) -> Callable[[onnx.ModelProto], None]:
    """Halve the weight of the convolution that came from `scope`."""

    def change(model: onnx.ModelProto) -> None:
        node = next(
            node
            for node in model.graph.node
            if node.op_type == "Conv" and scope in {entry.value for entry in node.metadata_props}
        )
        for tensor in model.graph.initializer:
            if tensor.name == node.input[1]:
                array = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(0.5 * array, tensor.name))

    return change


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("stem", "the first tensor that diverges is 'conv2d' (Conv of stem), by 0."),
        ("middle.0", "(Conv of middle.0), by 0."),
        ("last", "the first tensor that diverges is 'relu' (Conv of last), by 0."),
    ],
)
def test_a_changed_weight_is_found_where_it_is(
    exported: Exported, tmp_path: Path, scope: str, words: str
) -> None:
    assert words in place(exported, halve_weight(scope), tmp_path)


def test_a_changed_operator_is_found_where_it_is(exported: Exported, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        relu = [node for node in model.graph.node if node.op_type == "Relu"][1]
        relu.op_type = "Sigmoid"

    words = place(exported, change, tmp_path)
    assert words.startswith("the first tensor that diverges is 'relu_")
    assert "(Sigmoid" in words


def test_a_graph_that_agrees_everywhere_says_so(exported: Exported, tmp_path: Path) -> None:
    words = place(exported, lambda model: None, tmp_path)

    assert words.startswith("none of ")
    assert words.endswith(
        " tensors inside diverges by itself: a fusion of the runtime, or rounding that adds up"
    )
    assert int(words.split()[2]) >= 5


def test_weights_in_a_file_of_their_own_are_found_too(model: Model, tmp_path: Path) -> None:
    written = tmp_path / "written"
    written.mkdir()
    exported = export_model(model, written, ExportOptions(external_data=True))
    data = written / "model.onnx.data"
    data.write_bytes(np.zeros(data.stat().st_size, np.uint8).tobytes())
    assert exported.program is not None
    feeds = synthetic_feeds(exported.artifact.inputs, {"N": 2}, seed=0)
    words = localise(exported.program, exported.artifact, runtime_named("ort-cpu"), feeds)

    assert "(Conv of middle.0), by " in words  # the stem's weights are small enough to stay


def test_the_program_of_an_artifact_from_the_cache_is_the_same(
    model: Model, exported: Exported
) -> None:
    again = decomposed(model, ExportOptions())
    assert exported.program is not None

    names = [[node.name for node in p.graph.nodes] for p in (again, exported.program)]
    assert names[0] == names[1]
