"""What an exported graph says: names, shapes, scopes, and nothing of the machine that made it."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from deploykit import __version__
from deploykit.core.types import Dim, TensorSpec
from deploykit.load.artifacts import load_artifact
from deploykit.load.calls import run_module
from deploykit.load.synthetic import synthetic_feeds

if TYPE_CHECKING:
    import onnx

    from tests.export.conftest import Export, Written

SCOPE = "deploykit.scope"


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


class Small(nn.Module):
    """A residual network in small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def small(export: Export) -> Written:
    return export(Small(), "x=N[1..8]x1x6x6")


def sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]


def test_the_declared_dimension_has_its_name_everywhere(small: Written) -> None:
    assert [sizes(value) for value in small.graph.input] == [["N", 1, 6, 6]]
    assert [sizes(value) for value in small.graph.output] == [["N", 3]]
    inner = {value.name: sizes(value) for value in small.graph.value_info}
    made = {name for node in small.graph.node for name in node.output} - {"output"}

    assert made <= set(inner)  # every shape inside is inferred
    words = {size for name in made for size in inner[name] if isinstance(size, str)}
    assert words == {"N"}


def test_ranges_are_in_the_record(small: Written) -> None:
    batch = Dim("N", 1, 8)

    assert small.artifact.inputs == (TensorSpec("x", "float32", (batch, 1, 6, 6)),)
    assert small.artifact.outputs == (TensorSpec("output", "float32", (batch, 3)),)
    assert load_artifact(small.artifact.folder) == small.artifact


def test_batch_norm_is_folded_into_the_convolution(small: Written) -> None:
    operators = [node.op_type for node in small.graph.node]

    assert operators.count("Conv") == 3
    assert "BatchNormalization" not in operators
    assert "Constant" not in operators


def test_every_node_names_its_module(small: Written) -> None:
    scopes = {
        node.op_type + str(number): {e.key: e.value for e in node.metadata_props}.get(SCOPE)
        for number, node in enumerate(n for n in small.graph.node if n.op_type in {"Conv", "Gemm"})
    }

    assert scopes == {
        "Conv0": "stem",
        "Conv1": "blocks.0.conv",
        "Conv2": "blocks.1.conv",
        "Gemm3": "head",
    }
    keys = {entry.key for node in small.graph.node for entry in node.metadata_props}
    assert keys == {SCOPE}


def test_nothing_of_this_machine_is_in_the_file(small: Written) -> None:
    data = small.artifact.model_path.read_bytes()
    record = (small.artifact.folder / "artifact.json").read_bytes()
    words = [
        str(Path.cwd()),
        str(small.artifact.folder),
        str(Path.home()),
        "site-packages",
        ".py",
        "Traceback",
        "stack_trace",
        "pkg.torch",
        socket.gethostname(),
    ]
    if len(getpass.getuser()) > 4:  # "root" is a word of its own
        words.append(getpass.getuser())

    assert [word for word in words if word.encode() in data] == []
    assert [word for word in words if word.encode() in record] == []
    assert small.model.producer_name == "deploykit"
    assert small.model.producer_version == __version__
    assert not small.model.metadata_props
    assert not small.graph.metadata_props
    assert all(not node.doc_string for node in small.graph.node)


def test_the_history_has_the_versions_that_made_it(small: Written) -> None:
    (step,) = small.artifact.history

    assert step.name == "export"
    assert step.options == {"opset": 20, "external_data": False}
    assert set(step.versions) == {"deploykit", "torch", "onnx", "onnxscript", "onnx-ir"}
    assert step.versions["torch"] == torch.__version__


def test_the_network_itself_is_left_as_it_was(export: Export) -> None:
    module = Small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    feeds = synthetic_feeds((TensorSpec("x", "float32", (2, 1, 6, 6)),), {}, 0)
    wanted = run_module(module.eval(), (TensorSpec("x", "float32", (2, 1, 6, 6)),), feeds)
    written = export(module, "x=N[1..8]x1x6x6")

    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    found = run_module(module, written.artifact.inputs, feeds)
    assert found["output"].tolist() == wanted["output"].tolist()


class Chatty(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("captured")  # noqa: T201  (that is the point)
        return super().forward(x)


def test_nothing_is_printed(export: Export, capfd: pytest.CaptureFixture[str]) -> None:
    export(Chatty(3, 2), "x=N[1..8]x3")

    assert capfd.readouterr() == ("", "")


def test_the_same_network_gives_the_same_bytes(export: Export, small: Written) -> None:
    module = Small()
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    first = export(module, "x=N[1..8]x1x6x6")
    again = Small()
    again.load_state_dict(weights)
    second = export(again, "x=N[1..8]x1x6x6")

    assert first.artifact.files == second.artifact.files
    assert first.artifact.digest != small.artifact.digest  # other weights
