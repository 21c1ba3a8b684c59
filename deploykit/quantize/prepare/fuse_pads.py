"""Zeros around a feature map are the padding of the convolution that reads it.

TensorFlow's exporters and `F.pad` write them as Pad, which has no integer kernel: between
quantizers it would be floats, dequantized for it alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.graph.values import attributes

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.values import Graph

_UNPADDED = 2  # samples and channels


def fuse_pads(graph: Graph) -> tuple[str, ...]:
    """Give convolutions the padding of the Pad before them. Changes `graph`.

    Returns:
        What those made that are gone.
    """
    found: list[str] = []
    for node in list(graph.nodes):
        if node.op_type != "Pad" or node.domain != "" or node.output[0] in graph.kept:
            continue
        name = str(node.output[0])
        readers, pads = graph.readers(name), _zeros(node, graph)
        if pads is None or not readers or not all(_takes(one, pads, graph) for one in readers):
            continue
        for reader in readers:
            _pad(reader, pads)
        graph.read_instead(name, str(node.input[0]))
        graph.drop(node)
        found.append(name)
    return tuple(found)


def _zeros(node: onnx.NodeProto, graph: Graph) -> list[int] | None:
    """Positions added at the beginnings and the ends; `None` for anything but zeros there."""
    names = [*node.input[1:], "", "", ""]
    pads, value, axes = names[:3]
    known = all(not name or name in graph.constants for name in (value, axes))
    if attributes(node).get("mode", b"constant") != b"constant" or axes or not known:
        return None
    if pads not in graph.constants or (value and graph.array(value).astype(np.float64).any()):
        return None
    both = graph.array(pads).astype(np.int64).reshape(2, -1)
    if both.shape[1] <= _UNPADDED or both[:, :_UNPADDED].any() or (both < 0).any():
        return None
    return [int(size) for size in both[:, _UNPADDED:].reshape(-1)]


def _takes(reader: onnx.NodeProto, pads: list[int], graph: Graph) -> bool:
    """Whether a node is a convolution that pads with zeros, and nothing else of it is padded."""
    if reader.op_type != "Conv" or reader.domain != "" or reader.input[0] in reader.input[1:]:
        return False
    given = attributes(reader)
    weight = graph.constants.get(reader.input[1])
    fits = weight is not None and 2 * (len(weight.dims) - _UNPADDED) == len(pads)
    return fits and given.get("auto_pad", b"NOTSET") in {b"NOTSET", b"VALID"}


def _pad(reader: onnx.NodeProto, pads: list[int]) -> None:
    from onnx import helper

    own = attributes(reader).get("pads", [0] * len(pads))
    assert isinstance(own, list | tuple)
    kept = [item for item in reader.attribute if item.name not in {"pads", "auto_pad"}]
    del reader.attribute[:]
    reader.attribute.extend(kept)
    whole = [one + other for one, other in zip(own, pads, strict=True)]
    reader.attribute.append(helper.make_attribute("pads", whole))
