"""What our export costs over PyTorch's exporter alone: capture, cleaning, checker and record."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING

from benchmarks.result import Figure, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from deploykit.core.types import Model

GOAL = "`export` takes at most 1.3 times as long as the bare exporter, parity left out."
_MOST = 1.3
_ROUNDS, _QUICK_ROUNDS = 9, 2
_HIGH = 64  # the largest batch that is declared


def run(*, quick: bool) -> Result:
    """Both in this process, in turn, the order changing from round to round."""
    from deploykit.core.types import Model
    from deploykit.load.inputs import parse_inputs

    figures = []
    for name, build, declared in _networks()[: 1 if quick else None]:
        model = Model(build().eval(), parse_inputs([declared]))
        ours, bare = _interleaved(model, _QUICK_ROUNDS if quick else _ROUNDS)
        ratio = median(ours) / median(bare)
        figures += [
            Figure(f"{name}: bare exporter", median(bare), "ms"),
            Figure(f"{name}: ours", median(ours), "ms"),
            Figure(f"{name}: ours by bare", ratio, "x", f"at most {_MOST}", met=ratio <= _MOST),
        ]
    return Result(tuple(figures))


def _networks() -> list[tuple[str, Callable[[], nn.Module], str]]:
    """Small, deep and attention: (name, what builds it, its input)."""
    from torch import nn

    from deploykit.nets.resnet import resnet

    def encoder() -> nn.Module:
        layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
        return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    return [
        ("fashion_resnet", resnet, f"x=N[1..{_HIGH}]x1x28x28"),
        (
            "resnet of 50 convolutions",
            lambda: resnet(channels=(32, 64, 128), blocks=8),
            f"x=N[1..{_HIGH}]x1x28x28",
        ),
        ("transformer encoder", encoder, f"src=N[1..{_HIGH}]x32x128"),
    ]


def _interleaved(model: Model, rounds: int) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    _ours(model), _bare(model)  # the first export imports the operators' translations
    for number in range(rounds):
        for work in (_ours, _bare) if number % 2 else (_bare, _ours):
            (ours if work is _ours else bare).append(work(model))
    return ours, bare


def _ours(model: Model) -> float:
    from deploykit.export.options import ExportOptions
    from deploykit.export.torch_to_onnx import export_model

    with tempfile.TemporaryDirectory() as folder:
        began = perf_counter_ns()
        export_model(model, Path(folder), ExportOptions())
        return (perf_counter_ns() - began) / 1e6


def _bare(model: Model) -> float:
    import warnings

    import torch

    from deploykit.load.capture import example_sizes
    from deploykit.load.synthetic import synthetic_feeds

    spec = model.inputs[0]
    feeds = synthetic_feeds(model.inputs, example_sizes(model.inputs), 0)
    shapes = ({0: torch.export.Dim("N", min=1, max=_HIGH)},)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = perf_counter_ns()
        program = torch.onnx.export(
            model.module,
            (torch.from_numpy(feeds[spec.name]),),
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
        assert program is not None, "the bare exporter gave nothing"
        program.save(Path(folder) / "model.onnx")
        return (perf_counter_ns() - began) / 1e6
