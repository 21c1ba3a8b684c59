"""Which parameters a value is made of: weights that are normalised, scaled or split on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.analysis.rules.call import argument, packet_name

if TYPE_CHECKING:
    from torch.fx import Node

    from deploykit.compress.prune.graph.program import Program

CONVOLUTIONS = frozenset(f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3))
PRODUCTS = frozenset({"matmul", "mm", "bmm", "mv", "dot", "addmm", "baddbmm", "einsum"})
RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
CELLS = frozenset(f"{name}_cell" for name in RECURRENT)
_LAYERS = CONVOLUTIONS | PRODUCTS | RECURRENT | CELLS | {
    "linear", "bilinear", "embedding", "scaled_dot_product_attention",
}  # fmt: skip


def origins(program: Program) -> dict[Node, tuple[Node, ...]]:
    """For every node, the parameters, buffers and constants that it is made of.

    What a layer gives is not made of its weights: it has been through a product.
    """
    found: dict[Node, tuple[Node, ...]] = {}
    for node in program.module.graph.nodes:
        if node.op == "get_attr":
            found[node] = (node,)
        elif node.op == "call_function" and packet_name(node) not in _LAYERS:
            made = dict.fromkeys(one for used in node.all_input_nodes for one in found[used])
            found[node] = tuple(made)
        else:
            found[node] = ()
    return found


def static_nodes(program: Program) -> frozenset[Node]:
    """Nodes that no input of the network reaches."""
    static: set[Node] = set()
    for node in program.module.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (
            node.op == "call_function" and inputs and all(used in static for used in inputs)
        ):
            static.add(node)
    return frozenset(static)


def kernel_extents(program: Program) -> dict[str, frozenset[int]]:
    """Which dimensions of a parameter are the extent of a convolution's kernel: the last ones.

    Spectral norm flattens a weight before any convolution sees it: what may not be cut there has
    to be known before.
    """
    made = origins(program)
    extents: dict[str, frozenset[int]] = {}
    for node in program.module.graph.nodes:
        if node.op != "call_function" or packet_name(node) not in CONVOLUTIONS:
            continue
        weight = argument(node, "weight")
        rank = len(program.shape(weight)) - 2
        extent = program.shape(weight)[2:]
        for leaf in made[weight]:
            shape = program.shape(leaf) if leaf in program.shapes else ()
            if len(shape) >= rank + 2 and shape[-rank:] == extent:
                extents[str(leaf.target)] = frozenset(range(len(shape) - rank, len(shape)))
    return extents
