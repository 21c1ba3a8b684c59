"""A network with its graph and groups, and how large it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from deploykit.flow.prune.record import Size

if TYPE_CHECKING:
    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.compress.prune.plan import Plan
    from deploykit.compress.prune.structure import Group, Structure
    from deploykit.core.types import Model


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """What is pruned, seen three ways.

    Attributes:
        model: in memory.
        program: its graph.
        structure: its groups.
    """

    model: Model
    program: Program
    structure: Structure


def network_of(model: Model, options: PruneOptions) -> Network:
    """Capture and analyse; groups that the class cannot express are locked where it is kept.

    Raises:
        BadInputError: it cannot be captured; the message has the reason and the place.
    """
    from deploykit.compress.prune.analysis.analyse import analyse
    from deploykit.compress.prune.graph.program import program_of
    from deploykit.compress.prune.own_class.class_groups import agreeing_groups

    program = program_of(model)
    structure = analyse(program, options.heads)
    if options.keep_class:
        structure = agreeing_groups(model, program, structure, options.seed)
    return Network(model, program, structure)


def smaller(model: Model, program: Program, plan: Plan, *, keep_class: bool) -> Model:
    """The network without what a plan removes, as a graph or of its own class.

    Args:
        model: not changed.
        program: of it.
        plan: what is removed.
        keep_class: whether the class is kept.

    Raises:
        BadInputError: the plan does not fit the network.
        CannotKeepClassError: the class cannot express it.
    """
    from deploykit.compress.prune.cutting.cut import cut
    from deploykit.compress.prune.own_class.keep_class import keep_class as of_its_class

    module = of_its_class(model, program, plan) if keep_class else cut(program, plan)
    return replace(model, module=module.eval())


def shapes_of(program: Program) -> dict[str, tuple[int, ...]]:
    """Of every learnt parameter that the network uses, each once."""
    import torch

    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in program.tensors.items():
        if isinstance(tensor, torch.nn.Parameter):
            found.setdefault(tensor.data_ptr() or id(tensor), (name, tuple(tensor.shape)))
    return dict(found.values())


def size_of(program: Program) -> Size:
    """Parameters that the network uses, and multiply-accumulates of its layers with weights."""
    from deploykit.compress.prune.analysis.cost import macs_of

    parameters = sum(prod(shape) for shape in shapes_of(program).values())
    return Size(parameters, float(sum(macs_of(program).values())))


def counted(options: PruneOptions, size: Size, structure: Structure) -> float:
    """What the ratio is of: parameters, multiply-accumulates, or channels that may go."""
    from deploykit.compress.prune.choice.candidates import candidates

    if options.of == "parameters":
        return float(size.parameters)
    if options.of == "macs":
        return size.macs
    groups = candidates(structure, options.exclude, options.least_exact)
    return float(sum(group.channels for group in groups))


def kept_of(structure: Structure, plan: Plan) -> dict[str, int]:
    """How many channels of each group a plan keeps."""
    stays = {(cut.parameter, cut.dim): frozenset(cut.kept) for cut in plan.cuts}

    def kept(group: Group) -> int:
        member = group.members[0]
        left = stays.get((member.parameter, member.dim))
        rows = member.indices.tolist()
        return len(rows) if left is None else sum(left.issuperset(row) for row in rows)

    return {group.name: kept(group) for group in structure.groups}
