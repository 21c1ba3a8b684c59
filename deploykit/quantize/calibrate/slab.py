"""One block of memory for all values that pieces give: each has its place for as long as it lives.

::

    bytes
      │ ┌───────── a ─────────┐
      │ │                     │┌──── d ────┐
      │ └─────────────────────┘│           │
      │ ┌── b ──┐┌──── c ─────┐│           │
      │ └───────┘└────────────┘└───────────┘
      └────────────────────────────────────── pieces

The largest values are placed first, each as low as those that live at the same time allow (greedy
by size: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", MLSys 2020
workshop, section 5.2). The block is taken once, so that no batch asks the system for memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Span:
    """A value's life.

    Attributes:
        name: of the value.
        size_bytes: of it.
        first: number of the piece that gives it.
        last: number of the last piece that it is needed in, not below `first`.
    """

    name: str
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Slab:
    """Where values lie.

    Attributes:
        places: offset and room of each value, in bytes.
        size_bytes: of all.
    """

    places: Mapping[str, tuple[int, int]]
    size_bytes: int


def slab_of(spans: Iterable[Span]) -> Slab:
    """Give every value a place."""
    placed: list[tuple[int, int, Span]] = []
    places: dict[str, tuple[int, int]] = {}
    total = 0
    for span in sorted(spans, key=lambda one: (-one.size_bytes, one.first, one.name)):
        room = -(-span.size_bytes // _ALIGNMENT) * _ALIGNMENT
        start = 0
        for low, high, other in placed:
            apart = other.last < span.first or span.last < other.first
            if not apart and start < high and low < start + room:
                start = high
        places[span.name] = (start, room)
        placed.append((start, start + room, span))
        placed.sort(key=lambda one: one[0])
        total = max(total, start + room)
    return Slab(places, total)
