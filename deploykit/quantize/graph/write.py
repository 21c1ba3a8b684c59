"""A graph of any size to disk: weights stream into a file of their own where there are many.

A model over 2 GB cannot be one protobuf message, so large tensors go beside it, one at a time, from
memory or, in small pieces, from the external data that they came in.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from deploykit.core.errors import EnvironmentFailedError
from deploykit.quantize.graph.external import array_of, copy_external, embed
from deploykit.quantize.graph.values import bodies, nodes_below, without_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    import onnx

EMBED_LIMIT_BYTES = 1_800_000_000  # protobuf ends at 2 GiB; the graph itself needs room, too
_APART_BYTES = 1024  # smaller tensors stay in the model: shapes are inferred from them
_ALIGNMENT = 64


def write_graph(model: onnx.ModelProto, folder: Path | None, path: Path) -> tuple[Path, ...]:
    """Write a model, and `<its name>.data` beside it where it is large or has external data.

    Args:
        model: may be over 2 GB in memory, or have external data; not changed.
        folder: where its external data lies.
        path: of the model file to write.

    Returns:
        The files written, the model first.

    Raises:
        BadInputError: external data cannot be read.
        EnvironmentFailedError: the disk is full, or the folder cannot be written.
    """
    import onnx

    tensors = list(_tensors(model))
    outside = any(tensor.data_location == tensor.EXTERNAL for tensor in tensors)
    try:
        if not outside and sum(size_bytes(one) for one in tensors) <= EMBED_LIMIT_BYTES:
            onnx.save(model, path)
            return (path,)
        data = path.with_name(path.name + ".data")
        onnx.save(moved(model, folder, data), path)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write {path}: {error.strerror or error}") from error
    return path, data


def moved(model: onnx.ModelProto, folder: Path | None, data: Path) -> onnx.ModelProto:
    """A copy of the model whose large tensors are in the file `data`, which is written.

    Raises:
        BadInputError: external data cannot be read.
        OSError: the file cannot be written.
    """
    copy = without_weights(model)
    copy.graph.node.extend(model.graph.node)
    with data.open("wb") as file:
        for tensor in model.graph.initializer:
            copy.graph.initializer.append(_written(tensor, folder, file, data.name))
        for tensor in _attribute_tensors(copy):
            if tensor.data_location == tensor.EXTERNAL:
                tensor.CopyFrom(_written(tensor, folder, file, data.name))
    return copy


def _written(
    tensor: onnx.TensorProto, folder: Path | None, file: BinaryIO, name: str
) -> onnx.TensorProto:
    """The tensor with its bytes in the file, or in itself where they are few."""
    import onnx

    external = tensor.data_location == tensor.EXTERNAL
    if tensor.data_type == onnx.TensorProto.STRING or size_bytes(tensor) < _APART_BYTES:
        return embed(tensor, folder) if external else tensor
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    start = file.tell()
    if external:
        copy_external(tensor, folder, file)
    else:
        file.write(tensor.raw_data or _raw(tensor))
    moved = onnx.TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=list(tensor.dims),
        data_location=onnx.TensorProto.EXTERNAL,
    )  # fmt: skip
    place = {"location": name, "offset": str(start), "length": str(file.tell() - start)}
    for key, value in place.items():
        moved.external_data.add(key=key, value=value)
    return moved


def _raw(tensor: onnx.TensorProto) -> bytes:
    """The bytes of a tensor whose numbers are in a list of their type."""
    from onnx import numpy_helper

    return bytes(numpy_helper.from_array(array_of(tensor, None)).raw_data)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    yield from _attribute_tensors(model)


def _attribute_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors of nodes and of subgraphs, in functions too; sparse ones are left out."""
    nodes = [*model.graph.node, *(node for one in model.functions for node in one.node)]
    for node in nodes_below(nodes):
        for item in node.attribute:
            yield from [item.t] if item.HasField("t") else []
            yield from item.tensors
        for body in bodies(node):
            yield from body.initializer


def size_bytes(tensor: onnx.TensorProto) -> int:
    """In memory, about: elements of 8 bytes are the largest that weights have."""
    from onnx import helper

    if tensor.data_type in {0, 8}:  # undefined, string
        return int(tensor.ByteSize())
    width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(prod(tensor.dims) * width)
