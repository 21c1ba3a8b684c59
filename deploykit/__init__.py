"""deploykit: make a trained PyTorch network hardware-friendly, export it, prove it, measure it.

The public Python names are those of `__all__`; everything else is private and may change. A
public name that is to go stays for one minor version and warns. Importing this package loads
nothing else: each name is fetched when it is first used, so that torch and ONNX Runtime are
loaded only by what needs them.

| what | names |
| --- | --- |
| come in | `Source`, `load_source`, `load_artifact`, `parse_inputs`, `open_data`, `load_recipe` |
| train | `TrainOptions`, `train_recipe` |
| export and verify | `ExportOptions`, `ExportRequest`, `ExportResult`, `run_export` |
| compress | `PruneOptions`, `PruneRequest`, `PruneResult`, `run_prune`, `load_model`, |
| | `DistillOptions`, `DistillRequest`, `DistillResult`, `run_distill`, |
| | `SeparableOptions`, `SeparableRequest`, `SeparableResult`, `run_separable` |
| quantize | `QuantizeRequest`, `QuantizeResult`, `run_quantize` |
| half precision | `HalfRequest`, `HalfResult`, `run_half` |
| measure | `BenchRequest`, `Wanted`, `Plan`, `StopRules`, `BenchResult`, `measure` |
| records | `Model`, `OnnxArtifact`, `Target`, `Measurement`, `Report` and what they are made of |
| errors | `DeploykitError` and its kinds, `ExitStatus` |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from deploykit.bench.cases import Wanted
    from deploykit.bench.result import BenchResult
    from deploykit.bench.run import Plan
    from deploykit.bench.schedule import StopRules
    from deploykit.compress.distill.options import DistillOptions
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.compress.separable.options import SeparableOptions
    from deploykit.core.errors import (
        BadInputError,
        CannotTellError,
        CheckFailedError,
        DeploykitError,
        EnvironmentFailedError,
        ExitStatus,
        MissingExtraError,
    )
    from deploykit.core.measurement import (
        Machine,
        Measurement,
        ProcessRun,
        Samples,
        Status,
        Target,
    )
    from deploykit.core.report import Check, Report, Verdict
    from deploykit.core.types import (
        Dim,
        EngineArtifact,
        File,
        Io,
        Model,
        OnnxArtifact,
        Preprocessing,
        Step,
        TensorSpec,
        Variant,
    )
    from deploykit.export.options import ExportOptions
    from deploykit.flow.distill.distill import DistillResult, run_distill
    from deploykit.flow.distill.request import DistillRequest
    from deploykit.flow.export import ExportRequest, ExportResult, run_export
    from deploykit.flow.half.half import HalfResult, run_half
    from deploykit.flow.half.request import HalfRequest
    from deploykit.flow.measure import BenchRequest, measure
    from deploykit.flow.prune.prune import PruneResult, run_prune
    from deploykit.flow.prune.request import PruneRequest
    from deploykit.flow.quantize.quantize import QuantizeRequest, QuantizeResult, run_quantize
    from deploykit.flow.rebuild import load_model
    from deploykit.flow.separable.request import SeparableRequest
    from deploykit.flow.separable.separable import SeparableResult, run_separable
    from deploykit.flow.train import train_recipe
    from deploykit.load.artifacts import load_artifact
    from deploykit.load.datasets import open_data
    from deploykit.load.inputs import parse_inputs
    from deploykit.load.modules import load_source
    from deploykit.load.recipe import Recipe, load_recipe
    from deploykit.load.sources import Source
    from deploykit.train.options import TrainOptions

__all__ = [
    "BadInputError",
    "BenchRequest",
    "BenchResult",
    "CannotTellError",
    "Check",
    "CheckFailedError",
    "DeploykitError",
    "Dim",
    "DistillOptions",
    "DistillRequest",
    "DistillResult",
    "EngineArtifact",
    "EnvironmentFailedError",
    "ExitStatus",
    "ExportOptions",
    "ExportRequest",
    "ExportResult",
    "File",
    "HalfRequest",
    "HalfResult",
    "Io",
    "Machine",
    "Measurement",
    "MissingExtraError",
    "Model",
    "OnnxArtifact",
    "Plan",
    "Preprocessing",
    "ProcessRun",
    "PruneOptions",
    "PruneRequest",
    "PruneResult",
    "QuantizeRequest",
    "QuantizeResult",
    "Recipe",
    "Report",
    "Samples",
    "SeparableOptions",
    "SeparableRequest",
    "SeparableResult",
    "Source",
    "Status",
    "Step",
    "StopRules",
    "Target",
    "TensorSpec",
    "TrainOptions",
    "Variant",
    "Verdict",
    "Wanted",
    "load_artifact",
    "load_model",
    "load_recipe",
    "load_source",
    "measure",
    "open_data",
    "parse_inputs",
    "run_distill",
    "run_export",
    "run_half",
    "run_prune",
    "run_quantize",
    "run_separable",
    "train_recipe",
]

# Where a name lives; errors are in core.errors, and what is not here is in core.types.
_HOMES = {
    "BenchRequest": "flow.measure",
    "BenchResult": "bench.result",
    "Check": "core.report",
    "ExitStatus": "core.errors",
    "DistillOptions": "compress.distill.options",
    "DistillRequest": "flow.distill.request",
    "DistillResult": "flow.distill.distill",
    "ExportOptions": "export.options",
    "ExportRequest": "flow.export",
    "ExportResult": "flow.export",
    "HalfRequest": "flow.half.request",
    "HalfResult": "flow.half.half",
    "Machine": "core.measurement",
    "Measurement": "core.measurement",
    "Plan": "bench.run",
    "ProcessRun": "core.measurement",
    "PruneOptions": "compress.prune.options",
    "PruneRequest": "flow.prune.request",
    "PruneResult": "flow.prune.prune",
    "QuantizeRequest": "flow.quantize.quantize",
    "QuantizeResult": "flow.quantize.quantize",
    "Recipe": "load.recipe",
    "Report": "core.report",
    "Samples": "core.measurement",
    "SeparableOptions": "compress.separable.options",
    "SeparableRequest": "flow.separable.request",
    "SeparableResult": "flow.separable.separable",
    "Source": "load.sources",
    "Status": "core.measurement",
    "StopRules": "bench.schedule",
    "Target": "core.measurement",
    "TrainOptions": "train.options",
    "Verdict": "core.report",
    "Wanted": "bench.cases",
    "load_artifact": "load.artifacts",
    "load_model": "flow.rebuild",
    "load_recipe": "load.recipe",
    "load_source": "load.modules",
    "measure": "flow.measure",
    "open_data": "load.datasets",
    "parse_inputs": "load.inputs",
    "run_distill": "flow.distill.distill",
    "run_export": "flow.export",
    "run_half": "flow.half.half",
    "run_prune": "flow.prune.prune",
    "run_quantize": "flow.quantize.quantize",
    "run_separable": "flow.separable.separable",
    "train_recipe": "flow.train",
}
_ERRORS = "Error"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'deploykit' has no public name {name!r}")
    kind = "core.errors" if name.endswith(_ERRORS) else "core.types"
    return getattr(import_module(f"deploykit.{_HOMES.get(name, kind)}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
