"""Multiply-accumulates of every layer, by the name of its weight.

A weight that is normalised, scaled or split before it is used counts under the name of the
parameter that it is made of.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.origins import (
    CELLS,
    CONVOLUTIONS,
    PRODUCTS,
    RECURRENT,
    origins,
    static_nodes,
)
from deploykit.compress.prune.analysis.rules.call import argument, packet_name
from deploykit.compress.prune.analysis.rules.contract import spelled
from deploykit.compress.prune.graph.program import learnt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from torch.fx import Node

    from deploykit.compress.prune.graph.program import Program, Shape


def macs_of(program: Program) -> dict[str, float]:
    """Multiply-accumulates of one sample at full size, by the qualified name of the weight.

    A layer that runs several times counts each time. Products of activations (attention's) have
    no weight and are not counted: they shrink with the layers around them.
    """
    macs: dict[str, float] = {}
    for parts in _macs_by_weight(program).values():
        for name, count in parts.items():
            macs[name] = macs.get(name, 0.0) + count
    return macs


def macs_by_node(program: Program) -> dict[Node, float]:
    """Multiply-accumulates of one sample in every call of a layer with a weight."""
    return {node: sum(parts.values()) for node, parts in _macs_by_weight(program).items()}


def _macs_by_weight(program: Program) -> dict[Node, dict[str, float]]:
    found: dict[Node, dict[str, float]] = {}
    made, static, batch = origins(program), static_nodes(program), _batch(program)
    for node in program.module.graph.nodes:
        if node.op != "call_function" or node not in program.shapes or node in static:
            continue
        for weight in _weights(node, static):
            leaf = _leaf(program, made[weight])
            if leaf is None or not (count := _macs(program, node, weight)):
                continue
            parts, name = found.setdefault(node, {}), str(leaf.target)
            parts[name] = parts.get(name, 0.0) + count / batch
    return found


def _weights(node: Node, static: AbstractSet[Node]) -> Sequence[Node]:
    """The operands of a layer that are weights."""
    name = packet_name(node)
    if name in CONVOLUTIONS or name in {"linear", "bilinear"}:
        return (argument(node, "weight"),)
    if name in PRODUCTS:
        return [used for used in _factors(node) if used in static]
    if name in RECURRENT:
        return list(argument(node, "params"))
    if name in CELLS:
        return (argument(node, "w_ih"), argument(node, "w_hh"))
    return ()


def _factors(node: Node) -> Sequence[Node]:
    if packet_name(node) == "einsum":
        return list(argument(node, "tensors"))
    return node.all_input_nodes[-2:]


def _leaf(program: Program, leaves: Sequence[Node]) -> Node | None:
    """The largest matrix, a learnt one where there is one; `None` where there are vectors only."""
    matrices = [leaf for leaf in leaves if len(_shape(program, leaf)) > 1]
    known = learnt(program.module)
    return max(
        matrices,
        key=lambda leaf: (str(leaf.target) in known, prod(_shape(program, leaf))),
        default=None,
    )


def _macs(program: Program, node: Node, weight: Node) -> int:
    """Of one call, over the whole batch."""
    name, kernel = packet_name(node), _shape(program, weight)
    if len(kernel) < 2:
        return 0
    if name in RECURRENT | CELLS:
        return prod(_shape(program, argument(node, "input"))[:-1]) * prod(kernel)
    if name == "einsum":
        return _summed(program, node)
    if name in CONVOLUTIONS:
        positions = node.all_input_nodes[0] if "transpose" in name else node
        return prod(_shape(program, positions)) * prod(kernel[1:])
    if name in {"linear", "bilinear"}:
        return prod(_shape(program, node)) * prod(kernel[1:])
    left, _ = _factors(node) if len(_factors(node)) == 2 else (weight, weight)
    return prod(_shape(program, node)) * _shape(program, left)[-1]


def _summed(program: Program, node: Node) -> int:
    """Of an einsum: one for every combination of its letters."""
    shapes = [_shape(program, used) for used in _factors(node)]
    terms, _ = spelled(argument(node, "equation"), [len(shape) for shape in shapes])
    sizes: Mapping[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        sizes = {**sizes, **{c: max(n, sizes.get(c, 1)) for c, n in zip(term, shape, strict=True)}}
    return prod(sizes.values())


def _shape(program: Program, node: Node) -> Shape:
    shape = program.shapes.get(node)
    return tuple(size for size in shape if isinstance(size, int)) if shape else ()


def _batch(program: Program) -> int:
    """The stand-in of the batch: the first size of the first input where that is dynamic."""
    from deploykit.compress.prune.graph.program import STAND_INS

    for node in program.module.graph.nodes:
        if node.op == "placeholder" and (shape := _shape(program, node)):
            return shape[0] if shape[0] in STAND_INS else 1
    return 1
