"""The user's own module class, smaller, wherever it still runs and agrees with the cut graph.

A class says in Python what the graph says in literals, and some say it in ways that no attribute
can change: a width taken from the input's, two equal halves. So the class is a guess, which
counts only if it computes what the cut graph does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.prune.cutting.cut import cut
from deploykit.compress.prune.own_class.class_check import class_agreement, lively
from deploykit.compress.prune.own_class.class_copy import smaller
from deploykit.compress.prune.own_class.fold_scale import folded
from deploykit.core.errors import CheckFailedError

if TYPE_CHECKING:
    from torch import nn

    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.core.types import Model


class CannotKeepClassError(CheckFailedError):
    """The class cannot express the cut network; the graph can."""


def keep_class(model: Model, program: Program, plan: Plan, seed: int = 0) -> nn.Module:
    """A copy of the network, of its own class, without what the plan removes.

    Args:
        model: the network; not changed.
        program: of it.
        plan: what is removed.
        seed: of the inputs and scales of the comparison with the cut graph.

    Raises:
        BadInputError: the plan does not fit the network.
        CannotKeepClassError: the class does not run with these sizes, or does not compute what
            the cut graph does; the message says where.
    """
    agreement = class_agreement(model, program, cut(lively(program, seed), plan).eval(), seed)
    if not agreement.agrees:
        raise CannotKeepClassError(
            f"{type(model.module).__name__} cannot be cut as the graph is: {agreement.reason}; "
            "leave the class, or cut only what it can express with --keep-class"
        )
    small = cut(program, plan)
    scaled = folded(program, small, model.inputs)
    return smaller(model, program, small, bold=agreement.bold, folded=scaled)
