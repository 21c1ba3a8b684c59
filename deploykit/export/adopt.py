"""A foreign ONNX file -> OnnxArtifact: shapes inferred, checked, recorded; nothing rewritten.

Old opsets, old IR versions and fixed batches stay what they are: who made the file chose them.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.types import Dim, OnnxArtifact, Step
from deploykit.export.write import check_file, record_artifact
from deploykit.load.artifacts import MODEL_NAME, RECORD_NAME, read_graph
from deploykit.load.data import shape_text

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from deploykit.core.types import TensorSpec


def adopt(
    original: OnnxArtifact, folder: Path, declared: tuple[TensorSpec, ...], version: str
) -> OnnxArtifact:
    """Write a checked copy of a foreign model with its record.

    Args:
        original: as `deploykit.load.artifacts.load_artifact` found it.
        folder: empty and existing.
        declared: ranges for its dynamic dimensions, or empty.
        version: of deploykit.

    Raises:
        BadInputError: a declared input is not the graph's, or a data file has a name of ours.
        CheckFailedError: onnx's checker refuses the file.
        EnvironmentFailedError: the copy cannot be written.
    """
    import onnx

    inputs = ranged_inputs(original.inputs, declared)
    for file in original.files[1:]:
        if file.path in {MODEL_NAME, RECORD_NAME}:
            raise BadInputError(
                f"{original.model_path} keeps its weights in a file called {file.path}, which an "
                "artifact has for itself: rename it"
            )
    # The bytes of external data are copied as they are: they may be larger than the memory.
    model = _inferred(read_graph(original.model_path))
    path = folder / MODEL_NAME
    try:
        onnx.save(model, path)
        for file in original.files[1:]:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original.folder / file.path, folder / file.path)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write {path}: {error.strerror or error}") from error
    check_file(path)
    step = Step(
        name="adopt",
        options={"source": original.model_path.name},
        input_digests={file.path: file.sha256 for file in original.files},
        versions={"deploykit": version, "onnx": onnx.__version__},
    )
    history = (*original.history, step)
    return record_artifact(folder, inputs=inputs, io=original.io, history=history)


def ranged_inputs(
    found: tuple[TensorSpec, ...], declared: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """The graph's inputs with the declared ranges of their dynamic dimensions.

    Raises:
        BadInputError: a name, type or shape that is not the graph's.
    """
    if not declared:
        return found
    by_name = {spec.name: spec for spec in declared}
    if set(by_name) != {spec.name for spec in found}:
        raise BadInputError(
            f"the graph's inputs are {', '.join(spec.name for spec in found)}: declare each of "
            f"them, not {', '.join(by_name)}"
        )
    return tuple(_ranged(spec, by_name[spec.name]) for spec in found)


def _ranged(found: TensorSpec, declared: TensorSpec) -> TensorSpec:
    fits = len(found.shape) == len(declared.shape) and all(
        isinstance(have, Dim) or have == want
        for have, want in zip(found.shape, declared.shape, strict=True)
    )
    if not fits or found.dtype != declared.dtype:
        raise BadInputError(
            f"input {found.name!r} of the graph is {shape_text(found)}:{found.dtype}, "
            f"not {shape_text(declared)}:{declared.dtype}"
        )
    # The graph's own names stay: its other tensors use them.
    sizes = (
        replace(want, name=have.name) if isinstance(have, Dim) and isinstance(want, Dim) else want
        for have, want in zip(found.shape, declared.shape, strict=True)
    )
    return replace(found, shape=tuple(sizes))


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes that onnx can infer; as it is where onnx cannot."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):  # the latter beyond 2 GB
        return model
