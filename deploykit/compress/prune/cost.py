"""Multiply-accumulates of every layer, by the name of its weight."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from deploykit.compress.prune.rules.call import argument, packet_name

if TYPE_CHECKING:
    from torch.fx import Node

    from deploykit.compress.prune.graph import Program, Shape


def macs_of(program: Program) -> dict[str, float]:
    """Multiply-accumulates of one sample at full size, by the qualified name of the weight.

    A layer that runs several times counts each time. Products of activations (attention's) have
    no weight and are not counted: they shrink with the layers around them.
    """
    macs: dict[str, float] = {}
    for node, count in macs_by_node(program).items():
        weight = _weight(program, node)
        assert weight is not None, "it counts"
        name = str(weight.target)
        macs[name] = macs.get(name, 0.0) + count
    return macs


def macs_by_node(program: Program) -> dict[Node, float]:
    """Multiply-accumulates of one sample in every call of a layer with a weight."""
    macs: dict[Node, float] = {}
    batch = _batch(program)
    for node in program.module.graph.nodes:
        if node.op != "call_function":
            continue
        weight = _weight(program, node)
        if weight is None or node not in program.shapes:
            continue
        count = _macs(program, node, weight)
        if count:
            macs[node] = count / batch
    return macs


def _weight(program: Program, node: Node) -> Node | None:
    return next(
        (n for n in node.all_input_nodes[1:] if n.op == "get_attr" and len(_shape(program, n)) > 1),
        None,
    )


def _macs(program: Program, node: Node, weight: Node) -> int:
    name, kernel = packet_name(node), _shape(program, weight)
    if name.startswith("conv"):
        if "transpose" in name:
            positions = prod(_shape(program, node.all_input_nodes[0])) // kernel[0]
            return positions * prod(kernel)
        return prod(_shape(program, node)) * prod(kernel[1:])
    if name in {"linear", "matmul", "mm", "bmm", "addmm"}:
        given = _shape(program, argument(node, "input") or node.all_input_nodes[0])
        return prod(given) // (kernel[-1] if name == "linear" else kernel[-2]) * prod(kernel)
    return 0


def _shape(program: Program, node: Node) -> Shape:
    shape = program.shapes.get(node)
    return tuple(size for size in shape if isinstance(size, int)) if shape else ()


def _batch(program: Program) -> int:
    """The stand-in of the batch: the first size of the first input where that is dynamic."""
    from deploykit.compress.prune.graph import STAND_INS

    for node in program.module.graph.nodes:
        if node.op == "placeholder" and (shape := _shape(program, node)):
            return shape[0] if shape[0] in STAND_INS else 1
    return 1
