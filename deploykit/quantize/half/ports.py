"""Inputs and outputs of a node that are float32 and may be of 16 bits, from ONNX's own schemas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from deploykit.quantize.half.known import FLOAT
from deploykit.quantize.half.rules import FLOAT_PORTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from deploykit.quantize.half.formats import Format


@dataclass(frozen=True, slots=True)
class Ports:
    """Float32 values that a node touches.

    Attributes:
        reads: its inputs' numbers, each with whether it may be of 16 bits.
        makes: its outputs', likewise.
    """

    reads: Mapping[int, bool]
    makes: Mapping[int, bool]

    @property
    def there(self) -> bool:
        """Whether it touches any."""
        return bool(self.reads or self.makes)

    @property
    def free(self) -> bool:
        """Whether any may be of 16 bits."""
        return any(self.reads.values()) or any(self.makes.values())


def ports_of(
    node: onnx.NodeProto,
    types: Mapping[str, int],
    opsets: Mapping[str, int],
    form: Format,
) -> Ports:
    """Look a node up.

    Args:
        node: of the main graph.
        types: element types of values, as onnx numbers them.
        opsets: by domain.
        form: that it might compute in.
    """
    taken, given = _allowed(node.op_type, node.domain, opsets.get(node.domain, 1), form.word)
    kept = FLOAT_PORTS.get(node.op_type, frozenset())
    return Ports(
        {
            place: _at(taken, place) and place not in kept
            for place, name in enumerate(node.input)
            if types.get(name) == FLOAT
        },
        {
            place: _at(given, place)
            for place, name in enumerate(node.output)
            if types.get(name) == FLOAT
        },
    )


def _at(allowed: Sequence[bool], place: int) -> bool:
    """The last of an operator's inputs may stand for any number of them."""
    return bool(allowed) and allowed[min(place, len(allowed) - 1)]


@cache
def _allowed(
    operator: str, domain: str, opset: int, word: str
) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """For inputs and outputs of an operator, whether its schema takes the format there."""
    from onnx import defs

    try:
        schema = defs.get_schema(operator, opset, domain)
    except defs.SchemaError:  # a custom operator
        return (), ()
    types = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}

    def takes(name: str) -> bool:
        return f"tensor({word})" in types.get(name, ())

    return (
        tuple(takes(one.type_str) for one in schema.inputs),
        tuple(takes(one.type_str) for one in schema.outputs),
    )
