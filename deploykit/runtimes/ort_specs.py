"""What ONNX Runtime says of inputs and outputs, as our specs."""

from __future__ import annotations

from typing import Any

from deploykit.core.types import TensorSpec
from deploykit.load.data import named_dim

# ONNX Runtime writes "tensor(float)"; NumPy says "float32".
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "bool": "bool",
    "string": "string",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def spec_of(value: Any) -> TensorSpec:
    """The spec of one `NodeArg`: a size without a name is called after its tensor and axis.

    What is no tensor (a sequence, a map) keeps ONNX Runtime's name of its type and has no shape.
    """
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    if not value.type.startswith("tensor("):
        return TensorSpec(value.name, value.type, ())
    dims = (
        size if isinstance(size, int) and size > 0 else named_dim(size, value.name, axis)
        for axis, size in enumerate(value.shape)
    )
    return TensorSpec(value.name, _DTYPES.get(kind, kind), tuple(dims))
