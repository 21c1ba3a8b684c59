"""Whole residual blocks go first: a round of its own, before channels are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.compress.prune.options import AUTO
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.records import Schema
from deploykit.flow.cache import key_of
from deploykit.flow.prune.record import BlockRow
from deploykit.flow.prune.size import network_of, size_of

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.compress.prune.choice.evidence import Evidence
    from deploykit.compress.prune.depth.blocks import Block
    from deploykit.compress.prune.depth.choose_blocks import BlockChoice, Left
    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.compress.prune.plan import Plan
    from deploykit.core.types import Model
    from deploykit.flow.prune.record import Size
    from deploykit.flow.prune.rounds import Rounds, Stand
    from deploykit.flow.prune.size import Network
    from deploykit.load.data import Data

_BLOCKS = Schema("deploykit/prune-blocks")
_BLOCKS_NAME = "blocks.json"


@dataclass(frozen=True, slots=True)
class Chosen:
    """Blocks that go, as they are kept between runs.

    Attributes:
        removed: in the order of removal.
        rows: of all blocks.
    """

    removed: tuple[str, ...]
    rows: tuple[BlockRow, ...]


def depth_evidence(options: PruneOptions, data: Data | None, model: Model) -> Evidence | None:
    """What blocks are scored on; `None` where no data is looked at.

    Raises:
        BadInputError: there is no data, and the criterion needs some.
    """
    from deploykit.compress.prune.choice.evidence import Evidence, class_loss

    if not options.depth or options.depth_by == "magnitude":
        return None
    if data is None:
        if options.depth_by == AUTO:
            return None
        raise BadInputError(
            f"depth_by {options.depth_by!r} looks at data; add --train DATA, or take magnitude"
        )
    loss = class_loss if options.depth_by in {AUTO, "loss"} else None
    return Evidence(data, model.inputs, loss, samples=options.samples, seed=options.seed)


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """What channels are cut from.

    Attributes:
        stand: the network that was given, or what is left of it without some blocks.
        network: of it.
        blocks: of the network that was given, where some were to go.
        ratio: what is still to be cut, where blocks have done a part of it.
        done: whether nothing is.
    """

    stand: Stand
    network: Network
    blocks: tuple[BlockRow, ...] = ()
    ratio: float | None = None
    done: bool = False


def shallower(rounds: Rounds, base: Base, evidence: Evidence | None) -> Base:
    """The network without the blocks that it needs least, fine-tuned.

    Args:
        rounds: how to recover and to judge.
        base: the network that was given.
        evidence: as `depth_evidence` has it.

    Raises:
        BadInputError: the network has fewer blocks than shall go, or none.
    """
    from deploykit.compress.prune.depth.blocks import blocks_of
    from deploykit.compress.prune.depth.bypass import without_blocks
    from deploykit.compress.prune.plan import Plan

    options, program = rounds.cutting.options, base.network.program
    blocks = blocks_of(program)
    if not blocks:
        raise BadInputError(
            f"depth {options.depth:g}: the network has no residual blocks that can go; leave it out"
        )

    def make(folder: Path) -> None:
        rounds.progress(f"scoring {len(blocks)} residual blocks", None)
        choice = _choice(options, program, blocks, evidence)
        records.save(folder / _BLOCKS_NAME, Chosen(choice.removed, _rows(blocks, choice)), _BLOCKS)

    def read(folder: Path) -> Chosen:
        return records.load(folder / _BLOCKS_NAME, Chosen, _BLOCKS)

    chosen, _ = rounds.cache.get_or_make(key_of(rounds.key, "blocks"), make, read)
    order = {block.name: number for number, block in enumerate(blocks)}
    removed = tuple(sorted(chosen.removed, key=lambda name: order[name]))

    def step() -> tuple[Plan, Size]:
        plan = Plan(blocks=removed, heads=options.heads)
        return plan, size_of(without_blocks(program, removed))

    rounds.progress(f"without {len(removed)} of {len(blocks)} residual blocks", None)
    stand = rounds.step(base.stand, program, ("depth", removed), step)
    rest = network_of(stand.model, options)
    ratio = _still_to_cut(options, size_of(program), size_of(rest.program))
    return Base(stand, rest, chosen.rows, ratio, done=ratio <= 0)


def _choice(
    options: PruneOptions,
    program: Program,
    blocks: tuple[Block, ...],
    evidence: Evidence | None,
) -> BlockChoice:
    from deploykit.compress.prune.depth.choose_blocks import choose_blocks
    from deploykit.compress.prune.depth.score_blocks import BlockScorer

    by = options.depth_by
    if by == AUTO:
        by = "magnitude" if evidence is None else "loss"
    scorer = BlockScorer(program, blocks, by, evidence)
    if options.depth >= 1:
        return choose_blocks(scorer, count=int(options.depth), exclude=options.exclude)
    left = _left(options, program, blocks)
    return choose_blocks(scorer, share=options.depth, left=left, exclude=options.exclude)


def _left(options: PruneOptions, program: Program, blocks: tuple[Block, ...]) -> Left:
    from deploykit.compress.prune.depth.choose_blocks import macs_left, parameters_left

    return (parameters_left if options.of == "parameters" else macs_left)(program, blocks)


def _rows(blocks: tuple[Block, ...], choice: BlockChoice) -> tuple[BlockRow, ...]:
    return tuple(
        BlockRow(block.name, block.elements, block.macs, said.score, said.removed, said.why)
        for block, said in zip(blocks, choice.verdicts, strict=True)
    )


def _still_to_cut(options: PruneOptions, before: Size, now: Size) -> float:
    """The ratio that is left of the aim, of what blocks have left; 0 or less where it is met."""
    if options.of == "channels":  # of the groups that are still there
        return options.ratio
    if options.of == "macs":
        left = now.macs / before.macs if before.macs else 1.0
    else:
        left = now.parameters / before.parameters
    return 1 - (1 - options.ratio) / left
