"""The plan: which heads sit behind which layers. With the source it rebuilds the network.

A plan is data: what it names is looked up in a network that the user gave, and nothing in it is
ever imported or executed.
"""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.compress.exits.options import CONV, POOL
from deploykit.core.errors import BadInputError
from deploykit.core.records import Schema

EXITS_PLAN = Schema("deploykit/exits-plan")

HEADS = (POOL, CONV)


@dataclass(frozen=True, slots=True)
class ExitHead:
    """One exit.

    Attributes:
        layer: name of the module whose output it reads.
        kind: "pool": mean over all places, and a linear layer; "conv": before them a depthwise
            separable convolution of stride 2.
        channels: of what the layer gives; so that a plan of another network is noticed.
        hidden: channels of the convolution; 0 for "pool".
        dimensions: of the places (2 of an image), 0 where there are none; likewise noticed.
        normed: whether the mean is normalised (layer normalisation), as transformers need it.
    """

    layer: str
    kind: str
    channels: int
    hidden: int = 0
    dimensions: int = 2
    normed: bool = False

    def __post_init__(self) -> None:
        """Refuse a head that cannot be built."""
        if self.kind not in HEADS:
            raise BadInputError(f"the plan has a head {self.kind!r}; there are {', '.join(HEADS)}")
        if self.channels < 1 or not 0 <= self.dimensions <= 3:
            raise BadInputError(
                f"the plan's head behind {self.layer} has {self.channels} channels and "
                f"{self.dimensions} dimensions"
            )
        if (self.kind == CONV) != (self.hidden > 0) or (self.kind == CONV and not self.dimensions):
            raise BadInputError(
                f"the plan's head behind {self.layer} is {self.kind!r} with {self.hidden} hidden "
                f"channels in {self.dimensions} dimensions"
            )


@dataclass(frozen=True, slots=True)
class ExitsPlan:
    """All exits of a network but its own end.

    Attributes:
        exits: in the order of computation.
        classes: of every exit and of the network itself.
    """

    exits: tuple[ExitHead, ...]
    classes: int

    def __post_init__(self) -> None:
        """Refuse a layer that is there twice, and none at all."""
        names = [one.layer for one in self.exits]
        if not names:
            raise BadInputError("the plan has no exit")
        for name in names:
            if names.count(name) > 1:
                raise BadInputError(f"the plan has two exits behind {name}")
        if self.classes < 2:
            raise BadInputError(f"the plan's exits tell {self.classes} classes apart")
