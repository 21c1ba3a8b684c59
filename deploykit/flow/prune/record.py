"""The record of a pruning: what went, what stayed and why, and what became of the network."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (msgspec reads the annotations)
from dataclasses import dataclass

from deploykit.core.records import Schema
from deploykit.core.report import Check  # noqa: TC001  (likewise)
from deploykit.core.types import Option  # noqa: TC001  (likewise)

PRUNING = Schema("deploykit/pruning")
KEPT = Schema("deploykit/prune-counts")
PICTURE_NAME = "kept.svg"


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group of channels.

    Attributes:
        name: of the group.
        channels: before.
        kept: after.
        exactness: "exact", "renormalised" or "approximate".
        why: what makes it less than exact, or "".
        refused: why none may go, or "" where they may.
    """

    name: str
    channels: int
    kept: int
    exactness: str
    why: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One residual block.

    Attributes:
        name: of the block.
        parameters: learnt numbers that go with it alone.
        macs: multiply-accumulates of one sample that go with it.
        score: how much it was needed when it went, or is needed now; `None` where not asked.
        removed: whether it is gone.
        why: it stays unasked, or went with another; or "".
    """

    name: str
    parameters: int
    macs: float
    score: float | None
    removed: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Size:
    """What a network has.

    Attributes:
        parameters: learnt numbers.
        macs: multiply-accumulates of one sample in layers with weights.
    """

    parameters: int
    macs: float


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round of scoring, cutting and fine-tuning.

    Attributes:
        size: after the cut.
        val_before: share of right answers on the validation data after the cut, 0 to 1, or `None`.
        val_after: after fine-tuning, or `None`.
        epochs: of fine-tuning.
        seconds: that took.
    """

    size: Size
    val_before: float | None = None
    val_after: float | None = None
    epochs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Channels that groups keep, by name: what a latency came to."""

    kept: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Pruning:
    """One pruning, whole.

    Attributes:
        aim: in words: "0.5x of its macs", "a latency of 0.7x".
        before: the network that was given.
        after: what was made of it.
        groups: in the order of computation.
        rounds: in order.
        options: how it was pruned, by name.
        align: multiples that kept channels were rounded to, and how they were found.
        blocks: residual blocks of the network that was given, where some were to go.
        checks: latency, what is left, accuracy before and after: what report.json says as well.
    """

    aim: str
    before: Size
    after: Size
    groups: tuple[GroupRow, ...]
    rounds: tuple[RoundRow, ...]
    options: Mapping[str, Option]
    align: str = ""
    blocks: tuple[BlockRow, ...] = ()
    checks: tuple[Check, ...] = ()
