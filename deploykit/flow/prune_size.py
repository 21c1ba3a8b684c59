"""A network with its graph and groups, and how large it is."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from deploykit.flow.prune_record import Size

if TYPE_CHECKING:
    from deploykit.compress.prune.graph import Program
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


def network_of(model: Model, heads: str) -> Network:
    """Capture and analyse.

    Raises:
        BadInputError: it cannot be captured; the message has the reason and the place.
    """
    from deploykit.compress.prune.analyse import analyse
    from deploykit.compress.prune.graph import program_of

    program = program_of(model)
    return Network(model, program, analyse(program, heads))


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
    from deploykit.compress.prune.cost import macs_of

    parameters = sum(prod(shape) for shape in shapes_of(program).values())
    return Size(parameters, float(sum(macs_of(program).values())))


def counted(options: PruneOptions, size: Size, structure: Structure) -> float:
    """What the ratio is of: parameters, multiply-accumulates, or channels that may go."""
    from deploykit.compress.prune.candidates import candidates

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
