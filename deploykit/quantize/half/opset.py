"""Bring a graph to the opset in which bfloat16 is a type of Conv and pools, where nothing changes.

ONNX took bfloat16 into the last of its operators with opset 22. Where the signature of every node
of a graph is the same there, only the number has to be raised; elsewhere the graph stays, and what
has no bfloat16 stays float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.quantize.graph.values import nodes_below
from deploykit.quantize.prepare.opset import signature

if TYPE_CHECKING:
    from deploykit.quantize.graph.values import Graph

BF16_OPSET = 22


def raise_to_bf16(graph: Graph) -> None:
    """Raise the opset where that changes no node. Changes `graph`."""
    from onnx import helper

    entry = next((one for one in graph.frame.opset_import if one.domain == ""), None)
    if entry is None or entry.version >= BF16_OPSET:
        return
    nodes = (node for node in nodes_below(graph.nodes) if node.domain == "")
    if any(signature(node, entry.version) != signature(node, BF16_OPSET) for node in nodes):
        return
    entry.version = BF16_OPSET
    least = helper.find_min_ir_version_for(graph.frame.opset_import, ignore_unknown=True)
    graph.frame.ir_version = max(graph.frame.ir_version, least)
