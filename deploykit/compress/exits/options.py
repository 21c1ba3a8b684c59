"""The options of exits. Standard library only: help reads them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from deploykit.core.errors import BadInputError, nearest

AUTO, POOL, CONV = "auto", "pool", "conv"
HEADS = (AUTO, POOL, CONV)


@dataclass(frozen=True, slots=True)
class ExitsOptions:
    """Where exits are, and how they learn.

    Attributes:
        at: names of modules behind which a sample may leave; empty: placed by measured cost.
        exits: how many are placed then, the network's own end not counted.
        head: "pool" (mean and linear), "conv" (a separable convolution before), or "auto": "conv"
            where there are many places yet, "pool" elsewhere.
        exit_weights: what the loss of each exit counts, the whole network's being 1; one for all,
            or one each.
        distill: share of the whole network's softened outputs in what an exit learns, beside the
            labels; 0 to 1. Its gradient stops at the whole network (Phuong and Lampert,
            "Distillation-Based Training for Multi-Exit Architectures", ICCV 2019).
        temperature: that softens them.
        frozen: whether the network itself stays as it is and only heads learn.
        seed: of the heads' initial weights, and of training.
    """

    at: tuple[str, ...] = ()
    exits: int = 2
    head: str = AUTO
    exit_weights: tuple[float, ...] = (1.0,)
    distill: float = 0.5
    temperature: float = 3.0
    frozen: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.exits < 1:
            raise BadInputError(f"exits must be 1 or more, not {self.exits}")
        if self.head not in HEADS:
            raise BadInputError(f"there is no head {self.head!r}{nearest(self.head, HEADS)}")
        for name in self.at:
            if self.at.count(name) > 1:
                raise BadInputError(f"layer {name!r} is named twice: an exit each is enough")
        count = len(self.at) or self.exits
        if len(self.exit_weights) not in {1, count}:
            raise BadInputError(
                f"exit_weights has {len(self.exit_weights)} numbers for {count} exits: give "
                "one for all, or one for each"
            )
        for weight in self.exit_weights:
            if not (isfinite(weight) and weight > 0):
                raise BadInputError(f"an exit's weight must be above 0, not {weight:g}")
        if not 0 <= self.distill <= 1:
            raise BadInputError(
                f"the whole network's share must be from 0 to 1, not {self.distill:g}"
            )
        if not 0 < self.temperature < float("inf"):
            raise BadInputError(f"temperature must be above 0, not {self.temperature:g}")
        if self.seed < 0:
            raise BadInputError(f"seed must be 0 or more, not {self.seed}")

    def weight_of(self, number: int) -> float:
        """Of one exit, counted from 0."""
        return self.exit_weights[number if len(self.exit_weights) > 1 else 0]
