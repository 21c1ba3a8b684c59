"""What works channel by channel, as a depthwise convolution: that has a fast integer kernel.

A batch norm that no layer can take (of what is concatenated, or behind a sum) is a filter of one
position. ONNX Runtime has no integer kernel of it. An average pool is a filter of equal numbers;
the runtime's own integer kernel of 3 x 3 took four times as long (1.32, AVX-512 with VNNI). Either
is exact: a channel has a scale of its own, and only one number to be told.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.graph.values import attributes
from deploykit.quantize.prepare.affine import affine_of
from deploykit.quantize.prepare.fuse_biases import ranks_of

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.graph.values import Graph

_LEAST_RANK = 3  # [samples, channels, positions]
_OF_POOLS = frozenset({"ceil_mode", "count_include_pad"})


def as_depthwise(graph: Graph, operators: Collection[str]) -> tuple[str, ...]:
    """Rewrite nodes of these operators where they are one; names stay. Changes `graph`.

    Args:
        graph: prepared.
        operators: of "AveragePool" and "BatchNormalization".

    Returns:
        Names of the nodes.
    """
    ranks, found = ranks_of(graph), []
    for node in list(graph.nodes):
        if node.op_type not in operators or node.domain != "":
            continue
        rank = ranks.get(node.input[0], 0)
        if rank < _LEAST_RANK:
            continue
        is_norm = node.op_type == "BatchNormalization"
        if _norm(node, rank, graph) if is_norm else _pool(node, graph):
            found.append(node.name)
    return tuple(found)


def _norm(node: onnx.NodeProto, rank: int, graph: Graph) -> bool:
    with np.errstate(all="ignore"):  # what is not finite is seen below
        affine = affine_of(node, node.input[0], node, graph)
        if affine is None:
            return False
        scale, shift = (one.astype(np.float32) for one in (affine.scale, affine.shift))
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return False
    del node.attribute[:]
    _convolve(node, scale.reshape(-1, 1, *[1] * (rank - 2)), shift, graph)
    return True


def _pool(node: onnx.NodeProto, graph: Graph) -> bool:
    given = attributes(node)
    channels, kernel = _channels(node.input[0], graph), given.get("kernel_shape")
    pads, auto = given.get("pads", ()), given.get("auto_pad", b"NOTSET")
    assert isinstance(pads, list | tuple)
    assert isinstance(kernel, list | tuple)
    counts_edges = any(pads) and not given.get("count_include_pad", 0)
    if not channels or counts_edges or given.get("ceil_mode", 0) or auto != b"NOTSET":
        return False
    kept = [item for item in node.attribute if item.name not in _OF_POOLS]
    del node.attribute[:]
    node.attribute.extend(kept)
    share = np.full((channels, 1, *kernel), 1 / prod(kernel), np.float32)
    _convolve(node, share, None, graph)
    return True


def _convolve(
    node: onnx.NodeProto,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    graph: Graph,
) -> None:
    from onnx import helper

    node.op_type = "Conv"
    node.attribute.append(helper.make_attribute("group", len(weight)))
    inputs = [str(node.input[0]), graph.add_constant(f"{node.name}/filter", weight)]
    if bias is not None:
        inputs.append(graph.add_constant(f"{node.name}/shift", bias))
    graph.set_inputs(node, inputs)


def _channels(name: str, graph: Graph) -> int:
    """Of a value, or 0 where that is not known."""
    frame = graph.frame.graph
    for value in (*frame.input, *frame.value_info):
        if value.name == name:
            return int(value.type.tensor_type.shape.dim[1].dim_value)
    return 0
