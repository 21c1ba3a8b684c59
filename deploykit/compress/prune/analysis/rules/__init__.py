"""One rule a family of operators: what goes together, and how a call is written after the cut.

A *rule* reads a call and gives the labels of its result, uniting what the operator joins. A
*rewrite* changes the literal sizes in a call whose dimensions got smaller; most need none. An
operator without a rule locks what goes through it, by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploykit.compress.prune.analysis.edit import Edit
    from deploykit.compress.prune.analysis.rules.call import Call, Result


@dataclass(frozen=True, slots=True)
class Rule:
    """How pruning goes through one family of operators.

    Attributes:
        trace: labels of the result.
        rewrite: `None` where no literal of the call depends on a size.
    """

    trace: Callable[[Call], Result]
    rewrite: Callable[[Edit], None] | None = None


@cache
def table() -> Mapping[str, Rule]:
    """Every rule by the operator's name, without namespace, overload and the `_` of in-place."""
    from deploykit.compress.prune.analysis.rules import (
        attention,
        contract,
        convolve,
        create,
        move,
        norm,
        pointwise,
        recurrent,
        reduce,
        select,
        spatial,
        view,
    )

    rooms = (
        pointwise, move, view, select, create, contract, convolve, attention, recurrent, norm,
        reduce, spatial,
    )  # fmt: skip
    return {name: rule for room in rooms for name, rule in room.RULES.items()}
