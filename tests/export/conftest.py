"""Export a network made on the spot and read back what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import onnx
import pytest
import torch

from deploykit.core.types import Model, OnnxArtifact
from deploykit.export.options import ExportOptions
from deploykit.export.torch_to_onnx import export_model
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from torch.export import ExportedProgram


class Written(NamedTuple):
    artifact: OnnxArtifact
    graph: onnx.GraphProto
    model: onnx.ModelProto
    program: ExportedProgram | None


class Export(Protocol):
    def __call__(
        self, module: nn.Module, *inputs: str, opset: int = 20, external_data: bool = False
    ) -> Written: ...


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Weights are made from seed 0 before; each call has a folder of its own."""

    def write(
        module: nn.Module, *inputs: str, opset: int = 20, external_data: bool = False
    ) -> Written:
        folder: Path = tmp_path_factory.mktemp("export")
        model = Model(module.eval(), parse_inputs(inputs))
        done = export_model(model, folder, ExportOptions(opset, external_data))
        found = onnx.load(done.artifact.model_path)
        return Written(done.artifact, found.graph, found, done.program)

    torch.manual_seed(0)
    return write
