"""Stages against the graph that they were cut from, sample by sample, while samples leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from deploykit.compress.exits.network import MultiExit
from deploykit.compress.exits.plan import ExitHead, ExitsPlan
from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, Model, TensorSpec
from deploykit.export.exits.cut import stages_of
from deploykit.export.exits.stages import stage_models
from deploykit.export.options import ExportOptions
from deploykit.export.torch_to_onnx import export_model
from deploykit.nets.resnet import resnet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

BATCH = Dim("N", 1, 16)


class Dense(nn.Module):
    """Every layer reads all before it, and the last one the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.third, self.head = nn.Conv2d(12, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.first(x))
        two = torch.relu(self.second(torch.cat([x, one], 1)))
        three = torch.relu(self.third(torch.cat([x, x, one, two], 1)))
        logits: Tensor = self.head(three.mean((2, 3)))
        return logits


class Transformer(nn.Module):
    """Samples are not first inside: [L, N, C]; and sizes are computed from their number."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=first) for _ in range(3)
        )
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        if not self.first:
            tokens = tokens.transpose(0, 1)
        for layer in self.layers:
            tokens = layer(tokens)
        logits: Tensor = self.head(tokens.mean(1 if self.first else 0))
        return logits


class Folded(nn.Module):
    """Between its layers samples and tokens are one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.marked = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.embed(x.reshape(-1, 6)))
        self.marked(rows.view(-1, 5, 8))
        logits: Tensor = self.head(torch.relu(self.body(rows)).view(-1, 5, 8).mean(1))
        return logits


def _head(layer: str, channels: int, dimensions: int) -> ExitHead:
    return ExitHead(layer, "pool", channels, 0, dimensions)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], list[ExitHead]]]] = {
    "residual": (
        lambda: resnet(channels=(4, 8), blocks=1, in_channels=2, classes=3),
        ((2, 8, 8), [_head("stem", 4, 2), _head("stages.0", 4, 2)]),
    ),
    "dense": (Dense, ((2, 8, 8), [_head("first", 4, 2), _head("second", 4, 2)])),
    "transformer": (
        lambda: Transformer(first=True),
        ((5, 6), [_head("layers.0", 8, 1), _head("layers.1", 8, 1)]),
    ),
}


def _run(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def _exported(
    net: nn.Module, shape: tuple[int, ...], heads: list[ExitHead], folder: Path
) -> tuple[onnx.ModelProto, tuple[TensorSpec, ...]]:
    torch.manual_seed(0)
    made = MultiExit(net, ExitsPlan(tuple(heads), 3)).eval()
    specs = (TensorSpec("x", "float32", (BATCH, *shape)),)
    artifact = export_model(Model(made, specs), folder, ExportOptions()).artifact
    return onnx.load(artifact.model_path), specs


@pytest.mark.parametrize("name", CASES)
def test_samples_that_go_on_get_what_the_whole_graph_gives_them(name: str, tmp_path: Path) -> None:
    build, (shape, heads) = CASES[name]
    model, specs = _exported(build(), shape, heads, tmp_path)
    draw = np.random.default_rng(0)
    feeds = {"x": draw.normal(size=(9, *shape)).astype(np.float32)}
    wanted = _run(model, feeds)

    live: dict[str, Any] = dict(feeds)
    rows = np.arange(9)
    axes: dict[str, int | None] = {}
    for stage in stage_models(model, ["exit1", "exit2", "output"], specs, _run):
        axes |= stage.axes
        onnx.checker.check_model(stage.model, full_check=True)
        live |= _run(stage.model, {key: live[key] for key in stage.takes})
        np.testing.assert_allclose(live[stage.exit], wanted[stage.exit][rows], atol=1e-5)
        stay = np.arange(len(rows)) % 3 != 0
        rows = rows[stay]
        for key in live.keys() & axes.keys():
            axis = axes[key]
            if axis is not None:
                live[key] = np.compress(stay, live[key], axis=axis)
    assert rows.tolist() == [4, 7]


def test_every_node_of_use_is_in_one_stage(tmp_path: Path) -> None:
    build, (shape, heads) = CASES["dense"]
    model, _ = _exported(build(), shape, heads, tmp_path)

    stages = stages_of(model.graph, ["exit1", "exit2", "output"])

    numbers = [number for stage in stages for number in stage.nodes]
    assert sorted(numbers) == list(range(len(model.graph.node)))
    assert stages[0].takes == ("x",)
    assert len(stages[2].takes) == 3  # the input and both layers


def test_samples_that_are_not_first_are_found(tmp_path: Path) -> None:
    model, specs = _exported(
        Transformer(first=False), (5, 6), [_head("embed", 8, 1), _head("layers.0", 8, 1)], tmp_path
    )
    # Where samples are second, a layer's mean over its places is one over samples: an exit's head
    # is wrong there, and what passes between the stages is still found.
    stages = stage_models(model, ["exit1", "output"], specs, _run)

    assert set(stages[0].axes.values()) <= {0, 1}


def test_samples_folded_into_tokens_are_refused(tmp_path: Path) -> None:
    model, specs = _exported(Folded(), (5, 6), [_head("marked", 8, 1)], tmp_path)

    with pytest.raises(BadInputError, match=r"counts the samples .*\[10, 8\] for 2"):
        stage_models(model, ["exit1", "output"], specs, _run)


def test_exits_that_are_no_outputs_or_out_of_order_are_refused(tmp_path: Path) -> None:
    build, (shape, heads) = CASES["residual"]
    model, _ = _exported(build(), shape, heads, tmp_path)

    with pytest.raises(BadInputError, match="no output 'exit3'; did you mean"):
        stages_of(model.graph, ["exit3", "output"])
