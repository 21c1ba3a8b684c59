"""Tensors whose bytes may lie outside the model file: read one at a time, copied in pieces.

Paths come from an untrusted file: they have to lie in its folder.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from deploykit.core import records
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    import numpy as np
    import onnx
    from numpy.typing import NDArray

_PIECE_BYTES = 1 << 20


def array_of(tensor: onnx.TensorProto, folder: Path | None) -> NDArray[np.generic]:
    """A tensor's value, read from its file where it lies outside."""
    from onnx import numpy_helper

    return numpy_helper.to_array(embed(tensor, folder))


def external_place(tensor: onnx.TensorProto, folder: Path | None) -> tuple[Path, int, int | None]:
    """File, offset and length in bytes (`None`: to its end) of a tensor's external data.

    Raises:
        BadInputError: the folder is not known, or the file lies outside of it or is missing.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise BadInputError(
            f"tensor {tensor.name!r} lies in the file {location!r}: say in which folder that is"
        )
    path = records.inside(folder, location)
    if not path.is_file():
        raise BadInputError(f"the weights file {location!r} is missing from {folder}")
    length = int(entries["length"]) if "length" in entries else None
    return path, int(entries.get("offset", 0)), length


def embed(tensor: onnx.TensorProto, folder: Path | None) -> onnx.TensorProto:
    """The tensor with its bytes in it; a copy where they were outside."""
    if tensor.data_location != tensor.EXTERNAL:
        return tensor
    content = BytesIO()
    copy_external(tensor, folder, content)
    return type(tensor)(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=list(tensor.dims),
        raw_data=content.getvalue(),
    )


def copy_external(tensor: onnx.TensorProto, folder: Path | None, to: BinaryIO) -> None:
    """Copy the bytes of an external tensor, a piece at a time.

    Raises:
        BadInputError: see `external_place`; or there are fewer bytes than the tensor needs.
    """
    path, offset, length = external_place(tensor, folder)
    left = max(path.stat().st_size - offset, 0) if length is None else length
    with path.open("rb") as file:
        file.seek(offset)
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            to.write(piece)
            left -= len(piece)
    if left:
        raise BadInputError(
            f"the weights file {path.name!r} is cut off: tensor {tensor.name!r} needs {left} "
            "bytes more than there are"
        )
