"""Program and plan -> the smaller network: sliced weights, rewritten sizes, still trainable."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.analysis.analyse import Analysis, locked_sets, rewrite_of, run
from deploykit.compress.prune.analysis.edit import Edit
from deploykit.compress.prune.analysis.origins import kernel_extents
from deploykit.compress.prune.depth.bypass import after_blocks
from deploykit.compress.prune.graph.program import bodies
from deploykit.compress.prune.plan import Cut, Plan
from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch.fx import Graph, GraphModule, Node

    from deploykit.compress.prune.analysis.labels import Column, Mask
    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.structure import Structure
    from deploykit.load.data import Array

_SWITCHES = {"batch_norm": "training", "dropout": "train", "feature_dropout": "train",
             "alpha_dropout": "train", "dropout_": "train", "lstm": "train", "gru": "train",
             "rnn_tanh": "train", "rnn_relu": "train"}  # fmt: skip
"""What `train()` and `eval()` switch, and the argument that says which."""


def plan_of(
    structure: Structure, removed: Mapping[str, Array], sizes: Mapping[str, tuple[int, ...]]
) -> Plan:
    """The plan that removes channels, by the names of their groups.

    Args:
        structure: of the network.
        removed: numbers of channels by group.
        sizes: shapes of parameters and buffers by name.

    Raises:
        BadInputError: a group is locked or not there, or all of its channels would go.
    """
    by_name = {group.name: group for group in structure.groups}
    stays: dict[tuple[str, int], Mask] = {}
    for name, channels in removed.items():
        group = by_name.get(name)
        if group is None:
            raise BadInputError(f"there is no group {name!r}{nearest(name, by_name)}")
        if group.locked and len(channels):
            raise BadInputError(f"{name} cannot be cut: it {group.locked}")
        wrong = [c for c in channels if not 0 <= c < group.channels]
        if wrong:
            raise BadInputError(f"{name} has no channel {wrong[0]}, only 0 to {group.channels - 1}")
        for member in group.members:
            size = sizes[member.parameter][member.dim]
            key = (member.parameter, member.dim)
            mask = stays.setdefault(key, np.ones(size, dtype=bool))
            mask[member.indices[channels].ravel()] = False
    cuts = [
        Cut(parameter, dim, len(mask), tuple(np.flatnonzero(mask).tolist()))
        for (parameter, dim), mask in sorted(stays.items())
        if not mask.all()
    ]
    return Plan(tuple(cuts))


def compose(first: Plan, second: Plan) -> Plan:
    """One plan for two cuts in turn, the second made of what the first left."""
    known = {(cut.parameter, cut.dim): cut for cut in first.cuts}
    for cut in second.cuts:
        before = known.get((cut.parameter, cut.dim))
        if before is not None:
            kept = tuple(before.kept[index] for index in cut.kept)
            cut = Cut(cut.parameter, cut.dim, before.size, kept)  # noqa: PLW2901
        known[cut.parameter, cut.dim] = cut
    cuts = tuple(known[key] for key in sorted(known))
    return Plan(cuts, (*first.blocks, *second.blocks), first.heads)


def cut(program: Program, plan: Plan) -> GraphModule:
    """The network without what the plan removes.

    It takes and returns what the original does, has its own copies of the weights under the
    original names, is in evaluation mode, and follows `train()` and `eval()`.

    Raises:
        BadInputError: the plan does not fit the network; the message says where.
    """
    rest = after_blocks(program, plan)
    analysis = replay(rest.program, rest.plan)
    return build(analysis, gone_of(analysis, rest.plan))


def replay(program: Program, plan: Plan) -> Analysis:
    """The analysis in which every choice falls the way the plan was made."""
    removed: dict[str, dict[int, Mask]] = {}
    for part in plan.cuts:
        tensor = program.tensors.get(part.parameter)
        if tensor is None:
            raise BadInputError(
                f"the plan cuts {part.parameter}, which the network does not have or does not use"
            )
        if part.dim >= tensor.dim() or tensor.shape[part.dim] != part.size:
            raise BadInputError(
                f"the plan cuts dimension {part.dim} of {part.parameter} from {part.size} to "
                f"{len(part.kept)}, and its shape is {list(tensor.shape)}"
            )
        mask = np.ones(part.size, dtype=bool)
        mask[list(part.kept)] = False
        removed.setdefault(part.parameter, {})[part.dim] = mask
    return run(program, {}, removed)


def gone_of(analysis: Analysis, plan: Plan) -> Callable[[Column], Mask]:
    """Which labels go. Checks that the plan removes all of what goes together, and only that.

    Raises:
        BadInputError: it does not.
    """
    roots = analysis.trace.labels.roots()
    gone = np.zeros(len(roots), dtype=bool)
    for part in plan.cuts:
        mask = np.ones(part.size, dtype=bool)
        mask[list(part.kept)] = False
        for column in analysis.leaves[part.parameter].axes[part.dim]:
            gone[roots[column[mask]]] = True
    gone = gone[roots]
    _check_closed(analysis, plan, gone)
    return lambda labels: gone[labels]


def _check_closed(analysis: Analysis, plan: Plan, gone: Mask) -> None:
    planned = {(part.parameter, part.dim): set(part.kept) for part in plan.cuts}
    locked = locked_sets(analysis.trace)
    for name, value in analysis.leaves.items():
        if name not in analysis.program.names:
            continue
        for dim, axis in enumerate(value.axes):
            stays = np.ones(value.shape[dim], dtype=bool)
            for column in axis:
                stays &= ~gone[column]
                if (gone[column] & locked[column]).any():
                    reason = _reason(analysis, column[gone[column]])
                    raise BadInputError(f"the plan cuts {name}, dimension {dim}, which {reason}")
            kept = planned.get((name, dim), set(range(value.shape[dim])))
            if not axis and len(kept) < value.shape[dim]:
                extents = kernel_extents(analysis.program).get(name, ())
                reason = "is a kernel's extent" if dim in extents else "never gets smaller"
                raise BadInputError(f"the plan cuts {name}, dimension {dim}, which {reason}")
            if set(np.flatnonzero(stays).tolist()) != kept:
                raise BadInputError(
                    f"the plan does not fit the network: it keeps {len(kept)} of "
                    f"{value.shape[dim]} in dimension {dim} of {name}, and what goes with its "
                    f"other cuts leaves {int(stays.sum())}"
                )


def _reason(analysis: Analysis, labels: Column) -> str:
    roots = analysis.trace.labels.roots()
    wanted = set(roots[labels].tolist())
    for mark in analysis.trace.locks:
        if wanted & set(roots[mark.labels].tolist()):
            return mark.why
    return "never gets smaller"


def build(analysis: Analysis, gone: Callable[[Column], Mask]) -> GraphModule:
    """The graph with every literal that follows a size, and the slices of every tensor."""
    from torch import fx

    program = analysis.program
    graph, new_nodes = copied(program.module.graph)
    tensors: dict[str, object] = bodies(program.module)
    first: dict[tuple[int, int], str] = {}  # names of one parameter stay names of one
    for name, tensor in program.tensors.items():
        known = name
        if name in program.names:
            known = first.setdefault((tensor.data_ptr() or id(tensor), tensor.dim()), name)
        tensors[name] = _sliced(analysis, name, gone) if known == name else tensors[known]

    for old, new in new_nodes.items():
        rewrite = rewrite_of(old) if old.op == "call_function" and old in program.shapes else None
        if rewrite is not None:
            constant = partial(_constant, tensors, new)
            rewrite(Edit(new, old, analysis.values, gone, constant, program.tensors))
    if _switched(graph):
        tensors["training"] = True
    _drop_unused(graph)
    module = fx.GraphModule(tensors, graph, class_name="Pruned")
    return module.eval()


def _constant(tensors: dict[str, object], before: Node, tensor: Tensor) -> Node:
    """A tensor of the new graph's own, in front of a node."""
    name = f"_index_{len(tensors)}"
    tensors[name] = tensor
    with before.graph.inserting_before(before):
        return before.graph.get_attr(name)


def copied(graph: Graph) -> tuple[Graph, dict[Node, Node]]:
    """A copy of a graph, and the new node of every old one."""
    from torch import fx

    new = fx.Graph()
    nodes: dict[Node, Node] = {}
    result = new.graph_copy(graph, nodes)
    new.output(result)
    return new, nodes


def _sliced(analysis: Analysis, name: str, gone: Callable[[Column], Mask]) -> Tensor:
    """A copy of what stays of a tensor."""
    import torch

    tensor = analysis.program.tensors[name]
    part = tensor.detach()
    value = analysis.leaves.get(name)
    for dim, axis in enumerate(value.axes if value else ()):
        stays = np.ones(tensor.shape[dim], dtype=bool)
        for column in axis:
            stays &= ~gone(column)
        if not stays.all():
            part = part.index_select(dim, torch.from_numpy(np.flatnonzero(stays)))
    if part.data_ptr() == tensor.data_ptr():
        part = part.clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(part, requires_grad=tensor.requires_grad)
    return part


def _switched(graph: Graph) -> bool:
    """Let batch norm and dropout ask the module which mode it is in."""
    from deploykit.compress.prune.analysis.rules.call import argument, packet_name, set_argument

    asking = [
        node
        for node in graph.nodes
        if node.op == "call_function"
        and packet_name(node) in _SWITCHES
        and argument(node, _SWITCHES[packet_name(node)]) is False
    ]
    if asking:
        with graph.inserting_before(next(iter(graph.nodes))):
            mode = graph.get_attr("training")
        for node in asking:
            set_argument(node, _SWITCHES[packet_name(node)], mode)
    return bool(asking)


def _drop_unused(graph: Graph) -> None:
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
