"""The plan: which convolutions were split, and at which rank. With the source it rebuilds them.

A plan is data: what it names is looked up in a network that the user gave, and nothing in it is
ever imported or executed.
"""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError
from deploykit.core.records import Schema

SEPARABLE_PLAN = Schema("deploykit/separable-plan")


@dataclass(frozen=True, slots=True)
class SplitLayer:
    """One convolution that is a depthwise and a pointwise one now.

    Attributes:
        name: of its module; one that several names lead to is split once.
        rank: depthwise kernels for each input channel.
        weight: shape of the kernel that it had, so that a plan of another network is noticed.
    """

    name: str
    rank: int
    weight: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be split so."""
        if self.rank < 1:
            raise BadInputError(f"the plan splits {self.name} at rank {self.rank}; 1 is the least")


@dataclass(frozen=True, slots=True)
class SeparablePlan:
    """Everything that was split in a network.

    Attributes:
        layers: in the order of computation, each once.
    """

    layers: tuple[SplitLayer, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a layer that is there twice."""
        seen: set[str] = set()
        for layer in self.layers:
            if layer.name in seen:
                raise BadInputError(f"the plan splits {layer.name} twice")
            seen.add(layer.name)
