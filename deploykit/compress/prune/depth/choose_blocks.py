"""Which residual blocks go: the least needed first, scored again after each.

What a block is worth depends on which others are there: of two that do the same, either can go,
and not both. So the one with the lowest score goes, and the rest are scored anew without it
(Song et al., SLEB, ICML 2024, arXiv:2402.09025, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

from deploykit.compress.prune.analysis.cost import macs_of
from deploykit.compress.prune.depth.blocks import found_blocks
from deploykit.compress.prune.depth.bypass import bypassed
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.compress.prune.depth.blocks import Block
    from deploykit.compress.prune.depth.score_blocks import BlockScorer
    from deploykit.compress.prune.graph.program import Program

Left: TypeAlias = Callable[[tuple[str, ...]], float]
"""The share of something that is left without some blocks: 1 without none."""


@dataclass(frozen=True, slots=True)
class BlockVerdict:
    """What became of a block.

    Attributes:
        name: of the block.
        score: how much it was needed when it went, or is needed now; `None` where it was not
            asked.
        removed: whether it goes.
        why: it stays although it was not asked, or goes with another; or "".
    """

    name: str
    score: float | None
    removed: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """Which blocks go.

    Attributes:
        removed: their names, in the order of removal.
        verdicts: on all blocks, in the order of computation.
        left: the share of what counts that is left; 1 where blocks were counted.
        met: whether that is as little as was asked for.
    """

    removed: tuple[str, ...]
    verdicts: tuple[BlockVerdict, ...]
    left: float = 1.0
    met: bool = True


def choose_blocks(
    scorer: BlockScorer,
    *,
    count: int | None = None,
    share: float | None = None,
    left: Left | None = None,
    exclude: Sequence[str] = (),
) -> BlockChoice:
    """Choose a number of blocks, or as many as reach a share.

    Args:
        scorer: of the network's blocks.
        count: blocks that go; or
        share: of what `left` counts that goes at least, above 0 and below 1: each time the block
            goes that is least needed for what it saves.
        left: `macs_left`, `parameters_left`, or a latency of the caller's.
        exclude: patterns of blocks, or of modules in them, that stay.

    Raises:
        BadInputError: so many blocks cannot go.
    """
    allowed = {b.name: why for b in scorer.blocks if (why := _why_stays(b, exclude))}
    able = [b.name for b in scorer.blocks if b.name not in allowed]
    if count is not None and count > len(able):
        excluded = f", {len(allowed)} of them excluded" if allowed else ""
        total = len(scorer.blocks)
        raise BadInputError(
            f"{count} residual blocks cannot go: the network has {total}{excluded}; ask for at "
            f"most {len(able)}"
        )
    saved = {name: 1 - left((name,)) for name in able} if left is not None else {}
    removed: list[str] = []
    scores_then: dict[str, float] = {}
    now = 1.0
    scores = scorer.scores()
    while True:
        if (len(removed) >= count) if count is not None else (now <= 1 - (share or 0.0)):
            break
        candidates = {name: scores[name] for name in able if name in scores}
        chosen = _next(candidates, saved if count is None else None)
        if chosen is None:
            break
        scores_then[chosen] = scores[chosen]
        removed.append(chosen)
        now = left(tuple(removed)) if left is not None else 1.0
        scores = scorer.scores(removed)
    met = len(removed) == count if count is not None else now <= 1 - (share or 0.0)
    verdicts = tuple(
        _verdict(block, removed, scores_then, scores, allowed) for block in scorer.blocks
    )
    return BlockChoice(tuple(removed), verdicts, now, met)


def _next(candidates: Mapping[str, float], saved: Mapping[str, float] | None) -> str | None:
    """The least needed, or the least needed for what it saves; `None` where none is left."""
    if saved is None:
        return min(candidates, key=lambda name: candidates[name], default=None)
    # Scores may be negative: what counts is how much more one costs than the least needed.
    lowest = min(0.0, *candidates.values(), 0.0)
    worth = {
        name: (score - lowest) / saved[name]
        for name, score in candidates.items()
        if saved[name] > 0
    }
    return min(worth, key=lambda name: worth[name], default=None)


def _why_stays(block: Block, exclude: Sequence[str]) -> str:
    names = {block.name, *block.parameters, *(p.rpartition(".")[0] for p in block.parameters)}
    parents = {name[:end] for name in names for end, char in enumerate(name) if char == "."}
    for pattern in exclude:
        if any(fnmatchcase(name, pattern) for name in names | parents):
            return f"excluded by {pattern!r}"
    return ""


def _verdict(
    block: Block,
    removed: Sequence[str],
    then: dict[str, float],
    now: dict[str, float],
    stays: dict[str, str],
) -> BlockVerdict:
    if block.name in removed:
        return BlockVerdict(block.name, then[block.name], removed=True)
    outer = next((name for name in block.inside if name in removed), None)
    if outer is not None:
        return BlockVerdict(block.name, None, removed=True, why=f"goes with {outer}")
    return BlockVerdict(block.name, now.get(block.name), why=stays.get(block.name, ""))


def macs_left(program: Program, blocks: Sequence[Block]) -> Left:
    """Counts multiply-accumulates of layers with weights."""
    whole = sum(macs_of(program).values()) or 1.0

    def left(names: tuple[str, ...]) -> float:
        rest, _ = bypassed(program, found_blocks(blocks, names))
        return sum(macs_of(rest).values()) / whole

    return left


def parameters_left(program: Program, blocks: Sequence[Block]) -> Left:
    """Counts learnt numbers, shared ones once."""
    whole = _parameters(program) or 1

    def left(names: tuple[str, ...]) -> float:
        return _parameters(bypassed(program, found_blocks(blocks, names))[0]) / whole

    return left


def _parameters(program: Program) -> int:
    import torch

    learnt = {id(t): t for t in program.tensors.values() if isinstance(t, torch.nn.Parameter)}
    return sum(tensor.numel() for tensor in learnt.values())
