"""A network that is a graph of operators -> the same with its convolutions as modules.

What pruning left is such a graph: its convolutions are calls with weights that stand in it under
their old names. Here each becomes an `nn.Conv` under that name, so that `state_dict` keeps its keys
and what follows need not know where a network came from.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from torch.fx import GraphModule, Node

    from deploykit.compress.separable.split import Conv

_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def with_layers(module: nn.Module) -> nn.Module:
    """A copy in which every convolution is a module; a network of modules is only copied.

    A convolution stays a call where its kernel or bias is not a parameter of its own under
    `NAME.weight` and `NAME.bias`, or is read by something else as well.
    """
    from torch import fx

    copy = deepcopy(module)
    if isinstance(copy, fx.GraphModule):
        calls = _calls(copy)
        for name, nodes in calls.items():
            conv = _module(copy, name, nodes)
            if conv is not None:
                _put(copy, name, conv, nodes)
        if calls:
            copy.graph.lint()
            copy.recompile()
    return copy


def _calls(module: GraphModule) -> dict[str, list[Node]]:
    """The calls of convolutions by the name of the layer that their kernel is of."""
    import torch

    aten = torch.ops.aten
    known = {
        overload
        for packet in (aten.conv1d, aten.conv2d, aten.conv3d)
        for overload in (packet.default, packet.padding)
    }
    found: dict[str, list[Node]] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in known:
            target = getattr(_arguments(node)["weight"], "target", None)
            if isinstance(target, str) and target.endswith(".weight"):
                found.setdefault(target.removesuffix(".weight"), []).append(node)
    return found


def _arguments(node: Node) -> dict[str, object]:
    defaults: dict[str, object] = {
        "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
    }  # fmt: skip
    return {**defaults, **dict(zip(_NAMES, node.args, strict=False)), **node.kwargs}


def _module(module: GraphModule, name: str, nodes: list[Node]) -> Conv | None:
    """The layer that all of these calls are of, or `None` where they are not of one."""
    from torch import nn

    holder = module.get_submodule(name)
    given = [{**_arguments(node), "input": None} for node in nodes]
    said = [{**one, **{key: str(one[key]) for key in ("weight", "bias")}} for one in given]
    tensors = dict(holder.named_parameters())
    plain = type(holder) is nn.Module and not dict(holder.named_buffers())
    bias = getattr(given[0]["bias"], "target", None)
    if not plain or any(one != said[0] for one in said) or tensors.keys() - {"weight", "bias"}:
        return None
    if given[0]["bias"] is not None and bias != f"{name}.bias":
        return None
    readers = {
        user
        for node in module.graph.nodes
        if node.op == "get_attr" and str(node.target).rpartition(".")[0] == name
        for user in node.users
    }
    weight = tensors.get("weight")
    if weight is None or readers != set(nodes):
        return None
    conv = _made(weight, given[0])
    for key, tensor in tensors.items():
        setattr(conv, key, tensor)
    return conv.train(module.training)


def _made(weight: Tensor, given: dict[str, object]) -> Conv:
    """An empty layer for a kernel and the arguments that it is called with."""
    import torch
    from torch import nn

    rank = weight.dim() - 2
    kinds: dict[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    groups = cast("int", given["groups"])
    sizes = {}
    for key in ("stride", "padding", "dilation"):
        value = given[key]
        sizes[key] = value
        if isinstance(value, list | tuple):
            sizes[key] = tuple(value) * (rank if len(value) == 1 else 1)
    with torch.device("meta"):
        return kinds[rank](
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            **sizes,
            groups=groups,
            bias=given["bias"] is not None,
        )


def _put(module: GraphModule, name: str, conv: Conv, nodes: list[Node]) -> None:
    """The layer in the place of its holder, called where its kernel was used."""
    module.set_submodule(name, conv)
    for node in nodes:
        weights = [one for one in node.all_input_nodes if one is not _arguments(node)["input"]]
        with module.graph.inserting_before(node):
            call = module.graph.call_module(name, (cast("Node", _arguments(node)["input"]),))
        call.meta.update(node.meta)
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
        for weight in weights:
            if not weight.users:
                module.graph.erase_node(weight)
