"""Means over all positions of a feature map are GlobalAveragePool: that has integer kernels.

PyTorch's exporter writes `mean` and adaptive pooling to one position as ReduceMean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.graph.values import attributes
from deploykit.quantize.prepare.fuse_biases import ranks_of

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.values import Graph

_LEAST_RANK = 3  # [samples, channels, positions]


def pool_means(graph: Graph) -> tuple[str, ...]:
    """Rewrite them. Changes `graph`.

    Returns:
        Outputs of the means that were rewritten.
    """
    ranks = ranks_of(graph)
    found: list[str] = []
    for node in list(graph.nodes):
        if node.op_type != "ReduceMean" or node.domain != "":
            continue
        rank = ranks.get(node.input[0], 0)
        if rank < _LEAST_RANK or _axes(node, graph, rank) != list(range(2, rank)):
            continue
        keeps = bool(attributes(node).get("keepdims", 1))
        node.op_type = "GlobalAveragePool"
        del node.attribute[:]
        graph.set_inputs(node, [node.input[0]])
        found.append(node.output[0])
        if not keeps:
            _flatten(node, graph)
    return tuple(found)


def _axes(node: onnx.NodeProto, graph: Graph, rank: int) -> list[int] | None:
    """What a mean is over, ascending; `None` where that is not known, or everything."""
    given = attributes(node).get("axes")  # an input since opset 18
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in graph.constants:
            return None
        given = graph.array(node.input[1]).astype(np.int64).tolist()
    if not isinstance(given, list | tuple):
        return None
    return sorted(int(axis) % rank for axis in given)


def _flatten(node: onnx.NodeProto, graph: Graph) -> None:
    """Drop the dimensions of size 1 behind a pool, whose result then has another name."""
    from onnx import helper

    name = node.output[0]
    pooled = graph.free_name(f"{name}/pooled")
    flat = helper.make_node("Flatten", [pooled], [name], f"{node.name}/Flatten", axis=1)
    graph.rename_output(node, name, pooled)
    nodes = list(graph.nodes)
    nodes.insert(nodes.index(node) + 1, flat)
    graph.replace_nodes(nodes)
