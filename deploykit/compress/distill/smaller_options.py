"""How much smaller a student is than its teacher. Standard library only: help reads it."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError


@dataclass(frozen=True, slots=True)
class SmallerOptions:
    """The student as a smaller copy of its teacher's own architecture.

    Attributes:
        width: share of the channels that every group of coupled channels keeps, above 0, at most
            1 (Howard et al., MobileNets, 2017, arXiv:1704.04861, section 3.3). Of attention, whole
            heads go.
        depth: share of the residual blocks that every run of equal blocks keeps, likewise; at
            least one of each, and the first of a stage.
        align: kept channels are a multiple of it: what the hardware calculates at once.
    """

    width: float = 1.0
    depth: float = 1.0
    align: int = 8

    def __post_init__(self) -> None:
        """Refuse what is no smaller copy."""
        for name in ("width", "depth"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                percent = f"; for {value:g} % write {value / 100:g}" if 1 < value <= 100 else ""
                raise BadInputError(f"{name} must be above 0, at most 1, not {value:g}{percent}")
        if self.align < 1:
            raise BadInputError(f"align must be 1 or more, not {self.align}")
        if self.width == self.depth == 1:
            raise BadInputError(
                "width 1 and depth 1 are the teacher itself: ask for less, such as width 0.5"
            )
