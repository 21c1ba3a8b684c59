"""How splitting goes on: measured, trained. Standard library only: help reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from deploykit.compress.distill.options import DistillOptions

PRECISIONS = ("float32", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparableLoop:
    """How it goes on beside what `SeparableOptions` and, for training, `TrainOptions` say.

    These are keys of a recipe's stage "separable" as well.

    Attributes:
        measure: whether layers are timed as they are and split, so that those stay whole that
            would not get faster; else all that were chosen are split.
        force: split also what would not get faster, and hand over what is not.
        batch: of the measurement; `None` takes the smallest that the network allows.
        threads: likewise.
        precision: that will ship: layers are timed in it, and with "int8" whole networks are
            quantized to be measured.
        finetune: whether to train after splitting, where there is data for it.
        distill: how much the softened outputs of the network that was given count beside the
            labels in that training, from 0 to 1.
        temperature: that softens them.
        max_drop: points of accuracy on the validation data that may be lost; `None`: any.
    """

    measure: bool = True
    force: bool = False
    batch: int | None = None
    threads: int = 1
    precision: str = PRECISIONS[0]
    finetune: bool = True
    distill: float = 0.9
    temperature: float = 4.0
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInputError(f"{name} must be 1 or more, not {value}")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise BadInputError(f"max_drop must be 0 points or more, not {self.max_drop:g}")
        if self.precision not in PRECISIONS:
            raise BadInputError(
                f"precision {self.precision!r} is unknown{nearest(self.precision, PRECISIONS)}"
            )
        if not 0 <= self.distill <= 1:
            raise BadInputError(f"the original's weight must be from 0 to 1, not {self.distill:g}")
        if not 0 < self.temperature < float("inf"):
            raise BadInputError(f"temperature must be above 0, not {self.temperature:g}")
        if not self.measure and self.force:
            raise BadInputError("leave out force: nothing is measured")


def soft_targets(loop: SeparableLoop) -> DistillOptions | None:
    """How the original teaches; `None` where it does not."""
    from deploykit.compress.distill.options import DistillOptions

    if not loop.distill:
        return None
    return DistillOptions(weight=loop.distill, temperature=loop.temperature)
