"""How users declare inputs: `--input "x=N[1..64]x3x224x224:float32"`.

A letter or word is a dynamic dimension with its range; the same name means the same size. A third
number is the step: `H[64..512:32]` takes multiples of 32 only. The type is float32 where it is
left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, nearest
from deploykit.core.types import Dim, TensorSpec
from deploykit.load.data import shape_text

if TYPE_CHECKING:
    from collections.abc import Iterable

DTYPES = (
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
_EXAMPLE = 'write it like "x=N[1..64]x3x224x224:float32"'
_INPUT = re.compile(r"(?P<name>[^=\s]+)=(?P<shape>[^:]*(?:\[[^\]]*\][^:]*)*)(?::(?P<dtype>\w+))?")
_SIZES = re.compile(
    r"(?:(?P<fixed>\d+)|(?P<name>[A-Za-wyzX]\w*?)"
    r"(?:\[(?P<low>\d+)\.\.(?P<high>\d+)(?::(?P<step>\d+))?\])?)(?:x(?=.)|$)"
)


def parse_inputs(texts: Iterable[str]) -> tuple[TensorSpec, ...]:
    """All inputs of a network, in order; see the module for how one is written.

    A dimension needs its range once; where its name comes again, the range may be left out.

    Raises:
        BadInputError: not of that form, an unknown type, or two inputs or ranges that clash.
    """
    dims: dict[str, Dim] = {}
    specs: list[TensorSpec] = []
    for text in texts:
        spec = _parse(text, dims)
        if any(spec.name == other.name for other in specs):
            raise BadInputError(f"input {spec.name!r} is declared twice")
        specs.append(spec)
    return tuple(specs)


def input_text(spec: TensorSpec) -> str:
    """The declaration that `parse_inputs` reads back."""
    return f"{spec.name}={shape_text(spec) if spec.shape else ''}:{spec.dtype}"


def _parse(text: str, dims: dict[str, Dim]) -> TensorSpec:
    match = _INPUT.fullmatch(text.strip())
    if match is None:
        raise BadInputError(f"input {text!r} is not a declaration; {_EXAMPLE}")
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise BadInputError(f"input {text!r} has unknown type {dtype!r}{nearest(dtype, DTYPES)}")
    return TensorSpec(match["name"], dtype, tuple(_sizes(match["shape"], text, dims)))


def _sizes(shape: str, text: str, dims: dict[str, Dim]) -> Iterable[int | Dim]:
    position = 0
    while position < len(shape):
        match = _SIZES.match(shape, position)
        if match is None:
            raise BadInputError(
                f"input {text!r}: cannot read the size at {shape[position:]!r}; {_EXAMPLE}"
            )
        position = match.end()
        yield int(match["fixed"]) if match["fixed"] else _dim(match, text, dims)


def _dim(match: re.Match[str], text: str, dims: dict[str, Dim]) -> Dim:
    name = match["name"]
    if match["low"] is None:
        if name not in dims:
            raise BadInputError(f"input {text!r}: {name} has no range; write {name}[1..64]")
        return dims[name]
    dim = Dim(name, int(match["low"]), int(match["high"]), int(match["step"] or 1))
    if dim.step < 1:
        raise BadInputError(f"input {text!r}: the step of {name} is 0; leave it out, or write 1")
    if not 1 <= dim.low <= dim.high:  # type: ignore[operator]
        raise BadInputError(
            f"input {text!r}: the range {dim.low}..{dim.high} of {name} is empty or starts below 1"
        )
    if dim.low % dim.step or dim.high % dim.step:  # type: ignore[operator]
        raise BadInputError(f"input {text!r}: {name} ends off its step of {dim.step}")
    if dims.setdefault(name, dim) != dim:
        raise BadInputError(f"input {text!r}: {name} has another range elsewhere")
    return dim
