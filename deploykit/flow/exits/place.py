"""Which layers get an exit where nobody named any: by what the way to each of them takes.

Every place that can have an exit gets a small one, the graph is cut at all of them, and the way to
each is timed in ONNX Runtime. With two exits those are taken that lie nearest to one and two
thirds of the whole network's time, and so on: evenly spaced, as in MSDNet (Huang et al., ICLR
2018, section 4).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.compress.exits.options import POOL
from deploykit.core.errors import BadInputError
from deploykit.export.options import ExportOptions
from deploykit.flow.exits.cost import exit_costs
from deploykit.flow.exits.stages import write_stages
from deploykit.flow.rebuild import with_exits
from deploykit.load.calls import arguments
from deploykit.load.synthetic import choose_sizes, synthetic_feeds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.compress.exits.plan import ExitsPlan
    from deploykit.core.progress import Progress
    from deploykit.core.types import Model
    from deploykit.load.calls import Arguments
    from deploykit.load.data import Array

_MOST_TRIED = 16
_TOO_EARLY, _TOO_LATE = 0.05, 0.95
"""Shares of the time before which nothing is known, and after which nothing is saved."""


def few_samples(model: Model) -> Arguments:
    """Two made-up samples, as a network is called with them."""
    sizes = choose_sizes(model.inputs, 2)
    return arguments(model.module, model.inputs, synthetic_feeds(model.inputs, sizes, 0))


def placed(
    model: Model, count: int, feeds: Mapping[str, Array], threads: int, progress: Progress
) -> tuple[str, ...]:
    """Names of layers, in the order of computation.

    Args:
        model: gives logits.
        count: how many exits.
        feeds: inputs of one call, to time it on.
        threads: of ONNX Runtime.
        progress: told what goes on.

    Raises:
        BadInputError: the network has fewer places than that.
    """
    progress("timing places for exits", None)
    plan = _every_place(model)
    names = tuple(head.layer for head in plan.exits)
    if len(names) < count:
        raise BadInputError(
            f"there are {len(names)} places for exits ({', '.join(names) or 'none'}), not {count}: "
            "name layers with --at, or ask for fewer with --exits"
        )
    shares = _shares(model, plan, feeds, threads)
    return nearest_to_even(names, shares, count)


def nearest_to_even(names: Sequence[str], shares: Sequence[float], count: int) -> tuple[str, ...]:
    """Of the places, those nearest to 1/(count+1), 2/(count+1) ... of the time; in order.

    Args:
        names: of places, in the order of computation.
        shares: of the whole network's time that the way there takes.
        count: how many to take, at most as many as there are.
    """
    free = [k for k, share in enumerate(shares) if _TOO_EARLY <= share <= _TOO_LATE]
    free = free if len(free) >= count else list(range(len(names)))
    taken: list[int] = []
    for number in range(count):
        wanted = (number + 1) / (count + 1)
        after = taken[-1] + 1 if taken else 0
        # As many must be left as are still to be placed.
        usable = [k for k in free if k >= after]
        usable = usable[: len(usable) - (count - number - 1)]
        taken.append(min(usable, key=lambda k: abs(shares[k] - wanted)))
    return tuple(names[k] for k in taken)


def _every_place(model: Model) -> ExitsPlan:
    """Blocks: what lies in a `Sequential` or `ModuleList`, and the network's own children."""
    from torch import nn

    from deploykit.compress.exits.heads import heads_for

    given = few_samples(model)
    modules = dict(model.module.named_modules())
    found: list[str] = []
    for name, module in modules.items():
        parts = name.split(".")[:-1]
        above = (modules[".".join(parts[: k + 1])] for k in range(len(parts)))
        # What is inside of a block (its shortcut) is not on the only way through the network.
        block = all(isinstance(one, nn.Sequential | nn.ModuleList) for one in above)
        inside = any(isinstance(one, nn.Conv2d | nn.Linear) for one in module.modules())
        if name and block and (inside or any(True for _ in module.children())):
            found.append(name)
    kept: dict[str, ExitsPlan] = {}
    for name in found:
        try:
            kept[name] = heads_for(model.module, given, (name,), POOL)
        except BadInputError:
            continue
    step = max(1, -(-len(kept) // _MOST_TRIED))
    names = list(kept)[::step]
    if not names:
        raise BadInputError("the network has no place for an exit: name layers with --at")
    return heads_for(model.module, given, names, POOL)


def _shares(model: Model, plan: ExitsPlan, feeds: Mapping[str, Array], threads: int) -> list[float]:
    """Of the whole network's time, the way to each place."""
    from deploykit.export.torch_to_onnx import export_model

    exits = (*(f"exit{number + 1}" for number in range(len(plan.exits))), "output")
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        folder = Path(scratch)
        made = export_model(with_exits(model, plan), folder, ExportOptions(external_data=True))
        stages = write_stages(made.artifact, folder, exits, rule="confidence")
        costs = exit_costs(stages, folder, feeds, threads).exits_ns
    return [cost / costs[-1] for cost in costs[:-1]]
