"""What can be cut from a network: groups of channels, each with everything that goes with it.

A *group* is the unit of choice: channels that are alike and may go one by one. A *channel* of a
group is the smallest thing that can go: one index of a convolution's output, say, together with
the same index of its bias, of the norm behind it, and of the input of whatever reads it. Where
more has to go at once (a whole attention head, a channel in each of G groups), one channel stands
for several indices of a dimension.

    conv1: weight [64, 3, 3, 3]     group "conv1", 64 channels
    bn1:   weight [64], bias [64]     members: conv1.weight dim 0, bn1.weight dim 0, ...,
    conv2: weight [32, 64, 3, 3]               conv2.weight dim 1
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploykit.load.data import Array


class Exactness(StrEnum):
    """What the cut network computes, compared with the original.

    EXACT: the same as with the removed channels set to zero.
    RENORMALISED: the same but for norms over all channels, which see the kept ones only.
    APPROXIMATE: something between channels (a 1-D convolution over them, a maximum) saw them.
    """

    EXACT = "exact"
    RENORMALISED = "renormalised"
    APPROXIMATE = "approximate"


class Role(StrEnum):
    """What a parameter's dimension does to a channel.

    WRITES: rows that produce it (dimension 0 of a convolution's weight).
    READS: columns that consume it (dimension 1).
    SCALES: one number a channel (norm weights and biases, layer scale, embeddings' columns).
    """

    WRITES = "writes"
    READS = "reads"
    SCALES = "scales"


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One dimension of one parameter (or buffer, or constant of the graph) in a group.

    Attributes:
        parameter: its qualified name, as in `named_parameters()` of the original network.
        dim: which dimension is cut.
        indices: int64 [channels, n]: row c has the indices along `dim` that go with channel c.
        role: what this dimension does to the channel.
        learnt: whether it is a parameter; buffers (running statistics) are not.
    """

    parameter: str
    dim: int
    indices: Array
    role: Role
    learnt: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Channels that are alike.

    Attributes:
        name: the module that writes them first, such as "layer1.0.conv1"; unique.
        channels: how many there are.
        members: everything that is cut with them.
        exactness: the least exact thing that is done with them.
        why: what makes it less than exact, or "".
        locked: why none may go, or "" where they may.
        unit: indices that a channel stands for in its largest writer: 1, or a head's width.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    exactness: Exactness = Exactness.EXACT
    why: str = ""
    locked: str = ""
    unit: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """All groups of a network, in the order of computation.

    Attributes:
        groups: those that may be cut and those that are locked.
    """

    groups: tuple[Group, ...]

    @property
    def free(self) -> tuple[Group, ...]:
        """Groups that may be cut."""
        return tuple(group for group in self.groups if not group.locked)
