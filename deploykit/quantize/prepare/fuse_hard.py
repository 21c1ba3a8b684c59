"""Clip(x + b, 0, m) / m is HardSigmoid(x), however it is written down.

Before opset 14 there was no HardSwish, and exporters of many frameworks still write its parts: a
sum, a clip, a product and a quotient, in either order. As one node they have an integer form
(`place/hard.py`); a quotient has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.values import Graph

_NEAR = 1e-5  # files have 1/6 in float32, or as 0.16666667


def fuse_hard(graph: Graph) -> tuple[str, ...]:
    """Rewrite them. Changes `graph`.

    Returns:
        Names of the clips, which are the HardSigmoids now.
    """
    clips = [one for one in graph.nodes if one.op_type == "Clip" and one.domain == ""]
    return tuple(clip.name for clip in clips if _fuse(clip, graph))


def _fuse(clip: onnx.NodeProto, graph: Graph) -> bool:
    low, high = (_number(name, graph) for name in [*clip.input[1:], "", ""][:2])
    total = graph.sole_producer(clip.input[0])
    if low != 0 or high is None or high <= 0 or total is None or total.op_type != "Add":
        return False
    shifts = [(at, _number(name, graph)) for at, name in enumerate(total.input)]
    known = [(at, shift) for at, shift in shifts if shift is not None]
    scaled = _scaled(clip.output[0], 1 / high, graph)
    if len(known) != 1 or scaled is None:
        return False
    from onnx import helper

    at, shift = known[0]
    assert shift is not None
    name = scaled.output[0]
    before = next(one for one in scaled.input if one not in graph.constants)
    clip.op_type = "HardSigmoid"
    line = {"alpha": 1 / high, "beta": shift / high}
    clip.attribute.extend(helper.make_attribute(key, value) for key, value in line.items())
    graph.set_inputs(clip, [total.input[1 - at]])
    graph.drop(total)
    graph.drop(scaled)
    maker = graph.producer(before)
    assert maker is not None
    graph.rename_output(maker, before, name)
    return True


def _scaled(name: str, factor: float, graph: Graph) -> onnx.NodeProto | None:
    """The node that makes a value, or its product with another, as many times as large."""
    for _ in range(2):
        readers = graph.readers(name)
        if len(readers) != 1 or name in graph.kept:
            return None
        reader = readers[0]
        if _is_factor(reader, name, factor, graph):
            return reader
        if reader.op_type != "Mul" or reader.domain != "":
            return None
        name = reader.output[0]
    return None


def _is_factor(node: onnx.NodeProto, name: str, factor: float, graph: Graph) -> bool:
    if node.op_type not in ("Mul", "Div") or node.domain != "":
        return False
    if node.op_type == "Div" and node.input[0] != name:
        return False
    number = _number(next((one for one in node.input if one != name), ""), graph)
    if number is None or number == 0:
        return False
    found = number if node.op_type == "Mul" else 1 / number
    return abs(found / factor - 1) < _NEAR


def _number(name: str, graph: Graph) -> float | None:
    """A constant of one element that adds no dimension to what it is joined with, or `None`."""
    tensor = graph.constants.get(name)
    if tensor is None or any(size != 1 for size in tensor.dims) or len(tensor.dims) > 1:
        return None
    return float(np.asarray(graph.array(name), np.float64).reshape(()))
