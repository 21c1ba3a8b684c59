"""The options of distillation. Standard library only: help reads them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """How much a teacher's softened outputs count beside the labels.

    Attributes:
        weight: of the teacher, from 0 to 1; the labels have the rest.
        temperature: that both networks' logits are divided by, above 0. Higher ones tell more of
            how the teacher sees the wrong classes.
    """

    weight: float = 0.5
    temperature: float = 4.0

    def __post_init__(self) -> None:
        """Refuse what is no mixture."""
        if not 0 <= self.weight <= 1:
            raise BadInputError(f"the teacher's weight must be from 0 to 1, not {self.weight:g}")
        if not 0 < self.temperature < float("inf"):
            raise BadInputError(f"temperature must be above 0, not {self.temperature:g}")
