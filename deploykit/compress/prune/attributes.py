"""Attributes of modules that say how many channels there are, after a cut.

Layers of `torch.nn` follow their own weights. Attributes of users' classes (a number of heads, the
sizes of a split) are told by the graph: where a number in a call became another one, the attribute
of that module with the first value gets the second. A guess it remains; whoever cuts a class
compares it with the cut graph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploykit.compress.prune.rules.call import argument, packet_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn
    from torch.fx import Graph, Node

_GEOMETRY = frozenset({"kernel_size", "stride", "padding", "dilation", "output_padding"})
"""Attributes of convolutions that no cut changes, whatever their values."""


@dataclass(slots=True)
class Changes:
    """Numbers in the calls of one module that a cut changed.

    Attributes:
        numbers: the new ones by the old one, in order of their calls.
        lists: the new list of numbers by the old one (the sizes of a split).
        groups: of its convolution or group norm, if they changed.
    """

    numbers: dict[int, list[int]] = field(default_factory=dict)
    lists: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    groups: int | None = None


def changes_of(old: Graph, new: Graph) -> dict[str, Changes]:
    """What a cut changed in calls, by the name of the module that makes the call.

    Args:
        old: of the original network, whose nodes know their modules.
        new: the cut one, whose nodes have the same names.
    """
    known = {node.name: node for node in new.nodes}
    found: dict[str, Changes] = {}
    for node in old.nodes:
        after = known.get(node.name)
        if node.op != "call_function" or after is None:
            continue
        changes = found.setdefault(module_of(node), Changes())
        _compare(changes, (node.args, node.kwargs), (after.args, after.kwargs))
        _note_groups(found, node, after)
    return found


def module_of(node: Node) -> str:
    """The qualified name of the module whose `forward` makes a call; "" for the network's own."""
    path = ""
    for entry in (node.meta.get("nn_module_stack") or {}).values():
        path = entry[0] if isinstance(entry, tuple) else str(entry)
    # The second call of a module is "name@1".
    return re.sub(r"@\d+", "", path).removeprefix("L['self']").strip(".")


def _note_groups(found: dict[str, Changes], node: Node, after: Node) -> None:
    name = {"group_norm": "num_groups"}.get(packet_name(node), "groups")
    groups = argument(after, name)
    if not isinstance(groups, int) or groups == argument(node, name):
        return
    weight = argument(node, "weight")
    owner = module_of(node)
    if getattr(weight, "op", "") == "get_attr":
        owner = str(weight.target).rpartition(".")[0]
    found.setdefault(owner, Changes()).groups = groups


def _compare(changes: Changes, old: Any, new: Any) -> None:
    """Note numbers that differ, in arguments of the same structure."""
    if isinstance(old, bool) or isinstance(new, bool):
        return
    if isinstance(old, int) and isinstance(new, int):
        if old != new:
            changes.numbers.setdefault(old, []).append(new)
    elif isinstance(old, int) and _counts(new):  # a split into equal parts became a list of sizes
        changes.numbers.setdefault(old, []).append(max(new))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        if _counts(old) and _counts(new) and tuple(old) != tuple(new):
            changes.lists[tuple(old)] = tuple(new)
        if len(old) == len(new):
            for a, b in zip(old, new, strict=True):
                _compare(changes, a, b)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() & new.keys():
            _compare(changes, old[key], new[key])


def _counts(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(part, int) and not isinstance(part, bool) for part in value)
    )


def repair(module: nn.Module, changes: Mapping[str, Changes]) -> None:
    """Make the attributes of a network fit its weights, which have been cut. Changes `module`."""
    for name, part in module.named_modules():
        known = changes.get(name, Changes())
        _repair_user(part, known)
        for attribute, value in _from_weights(part, known):
            setattr(part, attribute, value)


def _repair_user(module: nn.Module, changes: Changes) -> None:
    if not changes.numbers and not changes.lists:
        return
    for name, value in list(vars(module).items()):
        if name.startswith("_") or name in _GEOMETRY:
            continue
        new = _renewed(value, changes)
        if new != value:
            setattr(module, name, new)


def _renewed(value: Any, changes: Changes) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return changes.numbers.get(value, [value])[0]
    if not _counts(value):
        return value
    known = changes.lists.get(tuple(value))
    parts = known or [changes.numbers.get(part, [part])[0] for part in value]
    return parts if type(value) is list else tuple(parts)


def _from_weights(module: nn.Module, changes: Changes) -> Iterator[tuple[str, Any]]:
    """Attributes of a layer of `torch.nn`, or of a class made from one, and their values."""
    from torch import nn
    from torch.nn.modules import batchnorm, conv, instancenorm

    weight = getattr(module, "weight", None)
    shape = () if weight is None or isinstance(weight, nn.Module) else tuple(weight.shape)
    if isinstance(module, nn.RNNBase):
        yield from _recurrent(module)
    elif isinstance(module, nn.MultiheadAttention):
        yield from _attention(module)
    elif not shape:
        if isinstance(module, nn.GroupNorm) and changes.groups:
            yield "num_groups", changes.groups
    elif isinstance(module, conv._ConvNd):
        groups = changes.groups or module.groups
        first, second = ("in", "out") if module.transposed else ("out", "in")
        yield "groups", groups
        yield f"{first}_channels", shape[0]
        yield f"{second}_channels", shape[1] * groups
    elif isinstance(module, nn.Linear):
        yield "out_features", shape[0]
        yield "in_features", shape[1]
    elif isinstance(module, nn.Bilinear):
        yield "out_features", shape[0]
        yield "in1_features", shape[1]
        yield "in2_features", shape[2]
    elif isinstance(module, batchnorm._NormBase | instancenorm._InstanceNorm):
        yield "num_features", shape[0]
    elif isinstance(module, nn.GroupNorm):
        yield "num_groups", changes.groups or module.num_groups
        yield "num_channels", shape[0]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        yield "normalized_shape", shape
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield "num_embeddings", shape[0]
        yield "embedding_dim", shape[1]
    elif isinstance(module, nn.PReLU):
        yield "num_parameters", shape[0]


def _recurrent(module: nn.RNNBase) -> Iterator[tuple[str, int]]:
    first = module.weight_hh_l0
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    yield "input_size", int(module.weight_ih_l0.shape[1])
    yield "hidden_size", int(first.shape[0]) // gates
    if module.proj_size:
        yield "proj_size", int(first.shape[1])


def _attention(module: nn.MultiheadAttention) -> Iterator[tuple[str, int]]:
    width = int(module.out_proj.weight.shape[0])
    yield "embed_dim", width
    yield "head_dim", width // module.num_heads
    if module._qkv_same_embed_dim:
        yield "kdim", width
        yield "vdim", width
    else:
        yield "kdim", int(module.k_proj_weight.shape[1])
        yield "vdim", int(module.v_proj_weight.shape[1])
