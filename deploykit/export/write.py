"""ONNX in memory -> artifact on disk: checked and recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.core import records
from deploykit.core.errors import CheckFailedError, EnvironmentFailedError
from deploykit.core.types import Dim, OnnxArtifact
from deploykit.load.artifacts import (
    MODEL_NAME,
    RECORD_NAME,
    data_files,
    files_of,
    read_graph,
    specs_of,
)
from deploykit.load.synthetic import dims_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir

    from deploykit.core.types import Io, Step, TensorSpec

DATA_NAME = "model.onnx.data"
EMBED_LIMIT_BYTES = 1_800_000_000  # protobuf ends at 2 GiB; the graph itself needs room, too


def write_artifact(
    model: onnx_ir.Model,
    folder: Path,
    *,
    inputs: tuple[TensorSpec, ...] | None = None,
    io: Io,
    history: tuple[Step, ...],
    external_data: bool = False,
) -> OnnxArtifact:
    """Write `model.onnx`, its data file where there is one, and `artifact.json`.

    Args:
        model: cleaned; not changed.
        folder: empty and existing.
        inputs: as declared, with the ranges that ONNX cannot hold; read back where not given.
        io: what inputs and outputs mean.
        history: of the artifact.
        external_data: whether weights lie in a file of their own; above 1.8 GB they always do.

    Raises:
        CheckFailedError: onnx's checker refuses what was written.
        EnvironmentFailedError: the disk is full, or the folder cannot be written.
    """
    import onnx_ir

    path = folder / MODEL_NAME
    external = external_data or _weight_bytes(model) > EMBED_LIMIT_BYTES
    try:
        onnx_ir.save(model, path, external_data=DATA_NAME if external else None)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write {path}: {error.strerror or error}") from error
    check_file(path)
    return record_artifact(folder, inputs=inputs, io=io, history=history)


def check_file(path: Path) -> None:
    """Have onnx's checker read the file, with strict shape inference.

    Raises:
        CheckFailedError: it refuses; the message is its first line.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = str(error).strip().split("\n")[0]
        raise CheckFailedError(f"onnx's checker refuses {path.name}: {line}") from error


def record_artifact(
    folder: Path, *, inputs: tuple[TensorSpec, ...] | None, io: Io, history: tuple[Step, ...]
) -> OnnxArtifact:
    """Write the record of the model file in `folder` and return it."""
    path = folder / MODEL_NAME
    graph = read_graph(path)
    found_inputs, outputs = specs_of(graph)
    dims = dims_of(inputs or ())
    artifact = OnnxArtifact(
        files=files_of(folder, (MODEL_NAME, *data_files(graph, path))),
        inputs=inputs or found_inputs,
        outputs=tuple(_ranged(spec, dims) for spec in outputs),
        io=io,
        history=history,
        folder=folder,
    )
    records.save(folder / RECORD_NAME, artifact, records.ONNX_ARTIFACT)
    return artifact


def _ranged(spec: TensorSpec, dims: Mapping[str, Dim]) -> TensorSpec:
    """The spec with the declared range of every dimension that an input has too."""
    sizes = (dims.get(d.name, d) if isinstance(d, Dim) else d for d in spec.shape)
    return replace(spec, shape=tuple(sizes))


def _weight_bytes(model: onnx_ir.Model) -> int:
    values = model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)
