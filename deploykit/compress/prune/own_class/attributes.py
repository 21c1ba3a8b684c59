"""Attributes of modules that say how many channels there are, after a cut.

Layers of `torch.nn` follow their own weights. Attributes of users' classes (a number of heads, the
sizes of a split) are told by the graph: where a number in a call became another one, the attribute
of that module with the first value gets the second. A guess it remains; whoever cuts a class
compares it with the cut graph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from deploykit.compress.prune.analysis.rules.call import argument, packet_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import nn
    from torch.fx import Graph, Node

_GEOMETRY = frozenset({"kernel_size", "stride", "padding", "dilation", "output_padding"})
"""Attributes of convolutions that no cut changes, whatever their values."""

_MULTIPLES = (2, 3, 4)


@dataclass(slots=True)
class Changes:
    """Numbers in the calls of one module that a cut changed.

    Attributes:
        numbers: the new ones by the old one, in order of their calls.
        lists: the new list of numbers by the old one (the sizes of a split).
        same: numbers that stayed in some call.
        groups: of its convolution or group norm, if they changed.
    """

    numbers: dict[int, list[int]] = field(default_factory=dict)
    lists: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    same: set[int] = field(default_factory=set)
    groups: int | None = None

    def join(self, other: Changes) -> None:
        """Add what was noted under another name of the module."""
        for old, new in other.numbers.items():
            self.numbers.setdefault(old, []).extend(new)
        self.lists.update(other.lists)
        self.same |= other.same
        self.groups = self.groups or other.groups


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
        if node.op != "call_function" or after is None or packet_name(node) == "chunk":
            continue  # a chunk's number is one of parts, and no size
        changes = found.setdefault(module_of(node), Changes())
        for a, b in zip(node.args, after.args, strict=False):  # defaults may have been added
            _compare(changes, a, b)
        _compare(changes, node.kwargs, after.kwargs)
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
        if old == new:
            changes.same.add(old)
        else:
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


def repair(module: nn.Module, changes: Mapping[str, Changes], bold: Collection[str] = ()) -> None:
    """Make the attributes of a network fit its weights, which have been cut. Changes `module`.

    Args:
        module: with its new weights and its old attributes.
        changes: by the name of the module.
        bold: names of classes where multiples, parts and sums of numbers that changed
            are taken to change, too.
    """
    by_module = _by_module(module, changes)
    steady = _steady(by_module)
    for part in module.modules():
        known = by_module.get(part, Changes())
        _repair_user(part, known, steady, bold=type(part).__name__ in bold)
        for attribute, value in _from_weights(part, known):
            setattr(part, attribute, value)


def doubtful(module: nn.Module, changes: Mapping[str, Changes]) -> frozenset[str]:
    """Names of classes in which a bold guess would change what `repair` leaves alone."""
    return frozenset(
        type(part).__name__
        for part, known in _by_module(module, changes).items()
        for _, value in _numbers(part)
        for number in (value if isinstance(value, list | tuple) else [value])
        if _renewed(number, known, bold=True) != _renewed(number, known, bold=False)
    )


def _by_module(module: nn.Module, changes: Mapping[str, Changes]) -> dict[nn.Module, Changes]:
    """Changes by module. One that is called from two places has two names, noted apart."""
    by_module: dict[nn.Module, Changes] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        if name in changes:
            by_module.setdefault(part, Changes()).join(changes[name])
    return by_module


_Place = tuple[type, str, int]
"""An attribute of a class, and which number of it."""


def _steady(by_module: Mapping[nn.Module, Changes]) -> set[_Place]:
    """Numbers that no cut changes, as far as modules show where all numbers differ.

    With 16 heads of width 16, only the other modules of the class tell one from the other.
    """
    stays: set[_Place] = set()
    goes: set[_Place] = set()
    for part, changes in by_module.items():
        for name, value in _numbers(part):
            for place, number in enumerate(value if isinstance(value, list | tuple) else [value]):
                if (number in changes.numbers) != (number in changes.same):
                    seen = goes if number in changes.numbers else stays
                    seen.add((type(part), name, place))
    return stays - goes


def _numbers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes that are numbers, or lists of them."""
    for name, value in list(vars(module).items()):
        if name.startswith("_") or name in _GEOMETRY or isinstance(value, bool):
            continue
        if isinstance(value, int) or _counts(value):
            yield name, value


def _repair_user(
    module: nn.Module, changes: Changes, steady: Collection[_Place], *, bold: bool
) -> None:
    if not changes.numbers and not changes.lists:
        return

    def renewed(name: str, place: int, value: int) -> int:
        stays = (type(module), name, place) in steady
        return value if stays else _renewed(value, changes, bold=bold)

    for name, value in _numbers(module):
        if isinstance(value, int):
            new: object = renewed(name, 0, value)
        else:
            parts = changes.lists.get(tuple(value)) or [
                renewed(name, place, part) for place, part in enumerate(value)
            ]
            new = list(parts) if type(value) is list else tuple(parts)
        if new != value:
            setattr(module, name, new)


def _renewed(value: int, changes: Changes, *, bold: bool) -> int:
    if value in changes.numbers:
        return changes.numbers[value][0]
    if bold and value not in changes.same:
        for old, new in changes.lists.items():  # a split into [part, whole - part]
            if value == sum(old):
                return sum(new)
        for factor in _MULTIPLES:
            if value % factor == 0 and value // factor in changes.numbers:
                return factor * changes.numbers[value // factor][0]
            if value * factor in changes.numbers:
                whole = changes.numbers[value * factor][0]
                if whole % factor == 0:
                    return whole // factor
    return value


def _from_weights(module: nn.Module, changes: Changes) -> Iterator[tuple[str, Any]]:
    """Attributes of a layer of `torch.nn`, or of a class made from one, and their values."""
    from torch import nn
    from torch.nn.modules import batchnorm, conv, instancenorm

    shape = _weight_shape(module)
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


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Of the weight, which may be computed from others (`torch.nn.utils.parametrize`), or ()."""
    import torch
    from torch.nn.utils.parametrize import is_parametrized

    if is_parametrized(module, "weight"):
        # Asking for the weight would run its parametrization, which may change the module. The
        # largest of what it is made of is as large: spectral norm, the direction of weight norm.
        parts = module.get_submodule("parametrizations.weight").parameters(recurse=False)
        return max((tuple(part.shape) for part in parts), key=prod, default=())
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()


def _recurrent(module: nn.RNNBase) -> Iterator[tuple[str, int]]:
    own, fed = module.get_parameter("weight_hh_l0"), module.get_parameter("weight_ih_l0")
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    yield "input_size", fed.shape[1]
    yield "hidden_size", own.shape[0] // gates
    if module.proj_size:
        yield "proj_size", own.shape[1]


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
