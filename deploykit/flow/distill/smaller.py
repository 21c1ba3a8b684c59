"""A student out of its teacher: the same architecture at a share of its width and depth.

It is made as a pruned network is: residual blocks go, then channels, and what is kept is a plan and
weights. So it works for every network that can be pruned, and is built again like any of those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deploykit.compress.prune.plan import Plan
from deploykit.compress.separable.plan import SeparablePlan
from deploykit.core.errors import BadInputError
from deploykit.flow.distill.record import Smaller
from deploykit.flow.plans import followed_by, read_plans
from deploykit.flow.prune.size import kept_of, size_of, smaller
from deploykit.flow.rebuild import pruned, separated
from deploykit.load.modules import load_source
from deploykit.nets.seeding import initial_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from deploykit.compress.distill.smaller_options import SmallerOptions
    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.plan import Cut
    from deploykit.compress.prune.structure import Structure
    from deploykit.core.types import Model
    from deploykit.flow.plans import AnyPlan
    from deploykit.flow.prune.record import Size
    from deploykit.load.sources import Source

HEADS = "whole"
"""A narrower attention has fewer heads, each as wide as before, as smaller transformers have."""
_BY = "l1"


@dataclass(frozen=True, slots=True, eq=False)
class SmallerCopy:
    """A network made of another, not trained yet.

    Attributes:
        model: in memory.
        plans: that lead to it from the network that the source builds.
        record: what was asked for, and what came of it.
    """

    model: Model
    plans: tuple[AnyPlan, ...]
    record: Smaller


def smaller_copy(
    teacher: Model, source: Source, options: SmallerOptions, *, anew: bool = False, seed: int = 0
) -> SmallerCopy:
    """The teacher's architecture with fewer blocks and channels.

    Args:
        teacher: with its weights; not changed.
        source: that it was loaded from, resolved.
        options: how much smaller.
        anew: whether the weights are initial ones; else they are the teacher's, of the channels
            with the largest weights.
        seed: of initial weights.

    Raises:
        BadInputError: the teacher cannot be captured, nothing of it can be left out as asked, or
            its initial weights cannot be made again.
    """
    from deploykit.compress.prune.graph.program import program_of

    if anew and source.text.endswith(".pt2"):
        raise BadInputError(
            f"{source.text} cannot be built anew, it brings its weights: leave out --anew"
        )
    program = program_of(teacher)
    blocks, of = _blocks(program, options)
    rest = _without(program, blocks)
    structure, cuts = _narrowed(rest, options)
    plan = Plan(cuts, blocks, HEADS)
    if not plan.cuts and not plan.blocks:
        raise BadInputError(
            f"width {options.width:g} and depth {options.depth:g} leave the network as it is, in "
            f"steps of {options.align} channels: ask for less, or for a smaller --align"
        )
    plans = followed_by(read_plans(source.plans), plan)
    model = smaller(teacher, program, plan, keep_class=False)
    if anew:
        state = _initial(source, plans, teacher.module.state_dict(), seed)
        model.module.load_state_dict({**model.module.state_dict(), **state})
    after = size_of(program_of(model))
    record = _record(options, (size_of(program), after), (plan, of), structure)
    return SmallerCopy(model, plans, replace(record, anew=anew))


def reached(record: Smaller) -> str:
    """One line: what was left out, what could not be, and what that came to."""
    before, after = record.before, record.after
    parts = []
    if record.depth < 1:
        parts.append(f"{len(record.left_out)} of {record.blocks} residual blocks left out")
    if record.width < 1:
        share = record.kept / record.channels if record.channels else 1.0
        whole = len(record.whole)
        locked = next(((name, why) for name, why in record.whole.items() if why), None)
        why = f" ({locked[0]} {locked[1]})" if locked else ""
        narrowed = f"{record.groups - whole} of {record.groups} groups of channels narrowed"
        parts.append(f"{narrowed}, to {share:.3g} together{why}")
    macs = f", {after.macs / before.macs:.1%} of the MACs" if before.macs else ""
    parts.append(
        f"{before.parameters:,} -> {after.parameters:,} parameters "
        f"({after.parameters / before.parameters:.1%}){macs}"
    )
    return "; ".join(parts)


def _blocks(program: Program, options: SmallerOptions) -> tuple[tuple[str, ...], int]:
    """Names of the residual blocks that go, and how many the network has.

    Raises:
        BadInputError: some were to go and none can.
    """
    from deploykit.compress.prune.depth.spread import runs_of

    runs = runs_of(program)
    total = sum(len(unit) for run in runs for unit in run.units)
    if options.depth == 1:
        return (), total
    if not any(run.can_go for run in runs):
        raise BadInputError(
            f"depth {options.depth:g}: the network has no residual blocks that can be left out, "
            "which takes two that are alike in a row; leave out --depth"
        )
    return tuple(name for run in runs for name in run.gone(options.depth)), total


def _without(program: Program, blocks: tuple[str, ...]) -> Program:
    from deploykit.compress.prune.depth.bypass import without_blocks

    return without_blocks(program, blocks) if blocks else program


def _narrowed(rest: Program, options: SmallerOptions) -> tuple[Structure, tuple[Cut, ...]]:
    """The groups of what blocks leave, and what is cut of them.

    Raises:
        BadInputError: none can be cut; the message has the reason.
    """
    from deploykit.compress.prune.analysis.analyse import analyse
    from deploykit.compress.prune.choice.score import score
    from deploykit.compress.prune.choice.uniform import uniform
    from deploykit.compress.prune.cutting.cut import plan_of

    structure = analyse(rest, HEADS)
    if options.width == 1:
        return structure, ()
    scores = score(rest.module, structure, _BY)
    removed = uniform(structure, scores, options.width, options.align)
    return structure, plan_of(structure, removed, rest.sizes).cuts


def _initial(
    source: Source, plans: Sequence[AnyPlan], learnt: Mapping[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """Weights of a network that was just built, brought to the size that the plans lead to.

    Whole numbers are the teacher's: what a plan keeps can depend on a permutation drawn at random.
    """
    from deploykit.compress.prune.cutting.fresh import fresh_state

    with initial_weights(seed):
        model = load_source(replace(source, plans=(), weights=None))
    for plan in plans:
        before = model.module.state_dict()
        for name, tensor in before.items():
            known = None if tensor.is_floating_point() else learnt.get(name)
            if known is not None and known.shape == tensor.shape:
                tensor.copy_(known)
        if isinstance(plan, SeparablePlan):
            model = separated(model, plan)
            continue
        if not isinstance(plan, Plan):
            raise BadInputError("a network with exits has no smaller copy: take the one without")
        model = pruned(model, plan)
        fresh = fresh_state(before, plan)
        state = model.module.state_dict()
        model.module.load_state_dict({name: fresh.get(name, state[name]) for name in state})
    return dict(model.module.state_dict())


def _record(
    options: SmallerOptions,
    sizes: tuple[Size, Size],
    gone: tuple[Plan, int],
    structure: Structure,
) -> Smaller:
    plan, blocks = gone
    kept = kept_of(structure, plan)
    whole = {g.name: g.locked for g in structure.groups if kept[g.name] == g.channels}
    return Smaller(
        width=options.width,
        depth=options.depth,
        align=options.align,
        before=sizes[0],
        after=sizes[1],
        blocks=blocks,
        left_out=plan.blocks,
        groups=len(structure.groups),
        whole=whole,
        channels=sum(group.channels for group in structure.free),
        kept=sum(kept[group.name] for group in structure.free),
    )
