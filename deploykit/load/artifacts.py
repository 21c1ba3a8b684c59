"""ONNX files on their way in: our own artifacts with their records, and foreign files without.

A model file is untrusted: nothing in it is run here, and the files that it names must lie in its
own folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.extras import extra
from deploykit.core.types import File, OnnxArtifact, TensorSpec
from deploykit.load.data import named_dim

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

RECORD_NAME = "artifact.json"
MODEL_NAME = "model.onnx"
_SUFFIX = ".onnx"
_NO_TENSORS = ("sequence", "map", "optional", "sparse_tensor", "nothing")
_OPSETS_SINCE_IR = 3


def is_onnx(text: str) -> bool:
    """Whether a command-line argument names an ONNX artifact and not a PyTorch source."""
    path = Path(text)
    if path.suffix == _SUFFIX or path.name == RECORD_NAME or (path / RECORD_NAME).is_file():
        return True
    return path.is_dir() and not (path / "recipe.toml").exists() and any(path.glob("*.onnx"))


def load_artifact(path: Path) -> OnnxArtifact:
    """An ONNX artifact: a folder with its record, the record itself, or a bare `.onnx` file.

    A file that has a record beside it which names it is read with the record. Digests are checked.

    Raises:
        BadInputError: nothing is there, it is not ONNX, it is cut off, its digest is not the
            recorded one, or it points at data outside its folder.
    """
    if not path.exists():
        raise BadInputError(f"{path} does not exist")
    if path.is_dir():
        path = path / RECORD_NAME if (path / RECORD_NAME).is_file() else _only_model(path)
    if path.name == RECORD_NAME:
        return _recorded(path)
    record = path.parent / RECORD_NAME
    if record.is_file():
        artifact = records.load(record, OnnxArtifact, records.ONNX_ARTIFACT)
        if artifact.files and artifact.files[0].path == path.name:
            return _recorded(record)
    return _foreign(path)


def read_graph(path: Path) -> onnx.ModelProto:
    """The parsed model without the bytes of its external data.

    Raises:
        BadInputError: not ONNX, or cut off in the middle.
    """
    with extra("package:onnx"):
        import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not an ONNX model, or it is cut off") from error
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error
    if not model.graph.node and not model.graph.output:
        raise BadInputError(f"{path} is not an ONNX model: it has no nodes and no outputs")
    if not model.opset_import and model.ir_version >= _OPSETS_SINCE_IR:  # they come last in a file
        raise BadInputError(f"{path} is not an ONNX model, or it is cut off: it names no opset")
    return model


def data_files(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """The external data files that a model names, each checked to be there, whole and inside.

    Args:
        model: parsed, in any depth of subgraphs.
        path: of the model file.

    Raises:
        BadInputError: a file is outside the model's folder, missing, or too short.
    """
    needed: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            start, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
        except ValueError as error:
            raise BadInputError(
                f"{path}: tensor {tensor.name!r} has an offset or length that is not a number"
            ) from error
        if start < 0 or length < 0:
            raise BadInputError(
                f"{path}: tensor {tensor.name!r} has offset {start} and length {length}"
            )
        needed[location] = max(needed.get(location, 0), start + length)
    for location, end in needed.items():
        _check_data(path, location, end)
    return tuple(needed)


def specs_of(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a graph; initializers that old files list as inputs are left out.

    An output that is no tensor (a sequence, a map) has the kind of thing for its type.

    Raises:
        BadInputError: an input is not a tensor, or has no shape at all.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in constants)
    for value in model.graph.input:
        kind = value.type
        whole = kind.tensor_type.HasField("shape") or value.name in constants
        if kind.HasField("tensor_type") and not whole:
            raise BadInputError(
                f"input {value.name!r} does not say how many dimensions it has: set its shape in "
                "the file (onnx.helper.make_tensor_value_info)"
            )
    for spec in inputs:
        if spec.dtype in _NO_TENSORS:
            raise BadInputError(f"input {spec.name!r} is a {spec.dtype}: only tensors can be fed")
    return inputs, tuple(_spec(value) for value in model.graph.output)


def files_of(folder: Path, names: tuple[str, ...]) -> tuple[File, ...]:
    """The entries of a record for a model (first) and its data files."""
    return tuple(
        File(name, records.sha256_of(folder / name), (folder / name).stat().st_size, role)
        for name, role in zip(names, ("model", *["weights"] * (len(names) - 1)), strict=True)
    )


def _recorded(path: Path) -> OnnxArtifact:
    artifact = records.load(path, OnnxArtifact, records.ONNX_ARTIFACT)
    if not artifact.files:
        raise BadInputError(f"{path} names no files")
    folder = path.parent
    for file in artifact.files:
        found = records.sha256_of(records.inside(folder, file.path))
        if found != file.sha256:
            raise BadInputError(
                f"{folder / file.path} is not the file that {path.name} describes (SHA-256 "
                f"{found[:12]}, recorded {file.sha256[:12]}): export it again"
            )
    artifact = replace(artifact, folder=folder)
    listed = {file.path for file in artifact.files}
    stray = set(data_files(read_graph(artifact.model_path), artifact.model_path)) - listed
    if stray:
        raise BadInputError(
            f"{artifact.model_path} reads files that its record does not list: "
            f"{', '.join(sorted(stray))}"
        )
    return artifact


def _foreign(path: Path) -> OnnxArtifact:
    model = read_graph(path)
    inputs, outputs = specs_of(model)
    files = files_of(path.parent, (path.name, *data_files(model, path)))
    return OnnxArtifact(files=files, inputs=inputs, outputs=outputs, folder=path.parent)


def _only_model(folder: Path) -> Path:
    models = sorted(folder.glob("*.onnx"))
    if len(models) == 1:
        return models[0]
    found = f"{len(models)} .onnx files: name one of them" if models else "no .onnx file in it"
    raise BadInputError(f"{folder} has no {RECORD_NAME} and {found}")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                graphs.extend([attribute.g] if attribute.HasField("g") else [])
                graphs.extend(attribute.graphs)
        nodes = []


def _check_data(path: Path, location: str, end: int) -> None:
    try:
        file = records.inside(path.parent, location)
        size = file.stat().st_size if file.is_file() else None
    except BadInputError as error:
        raise BadInputError(f"{path}: its weights at {error}") from error
    except OSError:  # a name that no file system takes
        size = None
    if size is None:
        raise BadInputError(f"{path}: its weights file {location!r} is missing")
    if size < end:
        raise BadInputError(
            f"{path}: its weights file {location!r} is cut off: {size} bytes, {end} needed"
        )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "nothing"
        return TensorSpec(value.name, kind.removesuffix("_type"), ())
    tensor = value.type.tensor_type
    dims = [
        dim.dim_value if dim.dim_value > 0 else named_dim(dim.dim_param, value.name, axis)
        for axis, dim in enumerate(tensor.shape.dim)
    ]
    if tensor.elem_type == onnx.TensorProto.STRING:
        return TensorSpec(value.name, "string", tuple(dims))
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError as error:
        raise BadInputError(
            f"{value.name!r} has element type number {tensor.elem_type}, which ONNX does not know"
        ) from error
    return TensorSpec(value.name, dtype, tuple(dims))
