"""Layers of captured graphs: a pruned network has operators and no modules that hooks can sit on.

`torch.export` notes of each operator which modules of the network it came from. Behind the last
one of a layer an `nn.Identity` is put, which has no weights, so that a state dictionary fits both.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from torch import nn
from torch.fx import GraphModule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.fx import Node


def opened_name(layer: str) -> str:
    """The name of the module that stands for a layer of a graph."""
    return f"layer__{layer.replace('.', '__')}"


def with_layers(net: nn.Module, layers: Iterable[str]) -> nn.Module:
    """A network whose named layers are modules: a changed copy of a graph, others as they are.

    Layers that the graph does not tell of stay missing: `watching` says so.

    Args:
        net: any network.
        layers: names of modules that the graph was captured from.
    """
    if not isinstance(net, GraphModule):
        return net
    copy = deepcopy(net)
    called = {str(node.target) for node in copy.graph.nodes if node.op == "call_module"}
    for layer in layers:
        last = _last_of(copy, layer)
        if layer in called or last is None or hasattr(copy, opened_name(layer)):
            continue
        copy.add_module(opened_name(layer), nn.Identity())
        users = list(last.users)
        with copy.graph.inserting_after(last):
            through = copy.graph.call_module(opened_name(layer), (last,))
        for user in users:
            user.replace_input_with(last, through)
    copy.recompile()
    return copy


def _last_of(net: GraphModule, layer: str) -> Node | None:
    """The last operator that came from a layer."""
    nodes = [node for node in net.graph.nodes if node.op == "call_function"]
    return next((node for node in reversed(nodes) if layer in _places(node)), None)


def _places(node: Node) -> set[str]:
    """Names of the modules that an operator came from, the layer and all around it."""
    stack = node.meta.get("nn_module_stack") or {}
    return {str(path).removeprefix("L['self'].") for path, _ in stack.values()}
