"""Model -> OnnxArtifact: capture, translate, clean, write. It judges nothing: `flow` does."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.types import Step
from deploykit.export.translate import clean, translate
from deploykit.export.write import write_artifact
from deploykit.load.calls import named_outputs, run_module
from deploykit.load.capture import capture, example_sizes
from deploykit.load.synthetic import synthetic_feeds

if TYPE_CHECKING:
    from pathlib import Path

    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

    from deploykit.core.types import Model, OnnxArtifact
    from deploykit.export.options import ExportOptions

_VERSIONED = ("torch", "onnx", "onnxscript", "onnx-ir")


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export leaves.

    Attributes:
        artifact: on disk.
        program: the decomposed program that the graph was translated from; the names of its
            nodes are the names of the graph's values, which is how parity finds the first tensor
            that diverges.
    """

    artifact: OnnxArtifact
    program: ExportedProgram | None


def export_model(model: Model, folder: Path, options: ExportOptions) -> Exported:
    """Write the network as an ONNX artifact.

    Args:
        model: not changed.
        folder: empty and existing.
        options: what the file shall be like.

    Raises:
        BadInputError: the network cannot be captured or translated.
        CheckFailedError: onnx's checker refuses the result.
        EnvironmentFailedError: it cannot be written.
    """
    program, found = _translated(model, options)
    clean(found.model, program, model.inputs)
    step = Step(
        name="export",
        options={"opset": options.opset, "external_data": options.external_data},
        input_digests=dict(model.history[-1].input_digests) if model.history else {},
        versions=versions(),
    )
    try:
        artifact = write_artifact(
            found.model,
            folder,
            inputs=model.inputs,
            io=model.io,
            history=(*model.history, step),
            external_data=options.external_data,
        )
    except CheckFailedError:
        _check_runs(model)
        raise
    return Exported(artifact, found.exported_program)


def _check_runs(model: Model) -> None:
    """Capture does not compute, so that a wrong type of input may come to light in the file only.

    Raises:
        BadInputError: PyTorch itself cannot run the network on inputs like the declared ones.
    """
    feeds = synthetic_feeds(model.inputs, example_sizes(model.inputs), seed=0)
    run_module(model.module, model.inputs, feeds)


def versions() -> dict[str, str]:
    """Versions of the packages that an exported file depends on."""
    others = {name: importlib.metadata.version(name) for name in _VERSIONED}
    return {"deploykit": __version__, **others}


def decomposed(model: Model, options: ExportOptions) -> ExportedProgram:
    """The program of `Exported`, made again for an artifact that comes from a cache."""
    _, found = _translated(model, options)
    assert found.exported_program is not None, "the exporter always says what it translated"
    return found.exported_program


def _translated(model: Model, options: ExportOptions) -> tuple[ExportedProgram, ONNXProgram]:
    program = capture(model)
    names = _output_names(program, model)
    for spec in model.inputs:
        if spec.name in names:
            raise BadInputError(
                f"{spec.name!r} is the name of an input and of an output: declare the input under "
                f"another name, such as {spec.name}_in"
            )
    return program, translate(program, model.inputs, names, options.opset)


def _output_names(program: ExportedProgram, model: Model) -> list[str]:
    """Names by the convention of `named_outputs`, read off the captured output structure."""
    if model.outputs:
        return [spec.name for spec in model.outputs]
    from torch.export.graph_signature import ConstantArgument, OutputKind
    from torch.utils import _pytree

    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    leaves = [
        found.arg.value if isinstance(found.arg, ConstantArgument) else values.get(found.arg.name)
        for found in program.graph_signature.output_specs
        if found.kind is OutputKind.USER_OUTPUT
    ]
    structure = program.call_spec.out_spec
    assert structure is not None, "torch.export records what the network returned"
    outputs = named_outputs(_pytree.tree_unflatten(leaves, structure))
    for name, value in outputs.items():
        if value.is_complex():
            raise BadInputError(
                f"output {name!r} is complex, which no ONNX runtime gives back: return "
                "torch.view_as_real(...) of it"
            )
    return list(outputs)
