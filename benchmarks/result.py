"""What a benchmark answers: figures, each beside its goal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: what was measured.
        value: in `unit`.
        unit: "ms", "x" (a ratio), "%" ...
        goal: what it had to be, as people read it ("at most 1.5"); "" where it only informs.
        met: whether it was; true where it only informs.
    """

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """All figures of one benchmark, in the order in which they are printed."""

    figures: tuple[Figure, ...]

    @property
    def met(self) -> bool:
        """Whether every goal was met."""
        return all(figure.met for figure in self.figures)
