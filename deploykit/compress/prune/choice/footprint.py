"""What is left of a network's parameters and multiply-accumulates, by channels kept: exact counts.

A convolution between two groups loses rows with one and columns with the other, so that neither
group's saving is a number of its own. Both follow from the sizes of its dimensions:

    conv2.weight [32, 64, 3, 3], 8 of 32 and 16 of 64 channels gone: 24 * 48 * 9 elements

Multiply-accumulates go with the elements of the weight, since every element is used at every
position of the output, whatever the number of channels. Products of two activations (q k^T) have
no weight and are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deploykit.compress.prune.structure import Group
    from deploykit.load.data import Array

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of the learnt parameters of a network, each once, by qualified name."""

Kept: TypeAlias = Mapping[str, int]
"""Channels that stay, by group; groups that are not named stay whole."""

Cost: TypeAlias = Callable[[Kept], float]
"""What is left when so many channels stay; it must not grow as they go."""


@dataclass(frozen=True, slots=True, eq=False)
class Footprint:
    """Sizes of parameters as a function of the channels that stay; `footprint` makes one.

    Attributes:
        channels: of each group, by name, in the order of the columns of `per_channel`.
        tensors: names of the parameters.
        sizes: float64 [dimensions], of all parameters, one behind the other.
        starts: int64 [tensors], where each one's dimensions begin.
        per_channel: float64 [dimensions, groups], indices that go with one channel.
    """

    channels: Mapping[str, int]
    tensors: tuple[str, ...]
    sizes: NDArray[np.float64]
    starts: NDArray[np.int64]
    per_channel: NDArray[np.float64]

    def parameters(self, kept: Kept) -> int:
        """Elements that are left of all parameters."""
        return int(self._elements(kept).sum())

    def macs(self, kept: Kept, macs: Mapping[str, float]) -> float:
        """Multiply-accumulates that are left.

        Args:
            kept: channels that stay.
            macs: of each layer of the whole network, by the qualified name of its weight.
        """
        share = self._elements(kept) / self._elements({})
        return float(sum(macs.get(n, 0.0) * s for n, s in zip(self.tensors, share, strict=True)))

    def shapes(self, kept: Kept) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter when so many channels stay; `()` becomes `(1,)`."""
        parts = np.split(self._sizes(kept).astype(np.int64), self.starts[1:])
        return {name: tuple(part.tolist()) for name, part in zip(self.tensors, parts, strict=True)}

    def _sizes(self, kept: Kept) -> NDArray[np.float64]:
        gone = [whole - kept.get(name, whole) for name, whole in self.channels.items()]
        left: NDArray[np.float64] = self.sizes - self.per_channel @ np.array(gone, np.float64)
        return left

    def _elements(self, kept: Kept) -> NDArray[np.float64]:
        # float64 is exact below 2**53 elements.
        return np.multiply.reduceat(self._sizes(kept), self.starts)


def footprint(groups: Sequence[Group], shapes: Shapes) -> Footprint:
    """Lay out how parameters shrink with groups.

    Args:
        groups: those that may be cut.
        shapes: of all parameters of the network, in or out of the groups.
    """
    dims = [shape or (1,) for shape in shapes.values()]
    ends = np.cumsum([len(shape) for shape in dims], dtype=np.int64)
    starts = dict(zip(shapes, (ends - [len(shape) for shape in dims]).tolist(), strict=True))
    per_channel = np.zeros((int(ends[-1]) if dims else 0, len(groups)))
    for column, group in enumerate(groups):
        found: dict[int, list[Array]] = {}
        for member in group.members:
            if member.parameter in starts:
                row = starts[member.parameter] + member.dim % len(shapes[member.parameter])
                found.setdefault(row, []).append(member.indices)
        for row, parts in found.items():
            # One index may be named twice: x + x, or a weight that two layers share.
            distinct = np.unique(np.concatenate([part.ravel() for part in parts])).size
            per_channel[row, column] = distinct / group.channels
    return Footprint(
        channels={group.name: group.channels for group in groups},
        tensors=tuple(shapes),
        sizes=np.array([size for shape in dims for size in shape], np.float64),
        starts=np.array(list(starts.values()), np.int64),
        per_channel=per_channel,
    )


def channels_left(groups: Sequence[Group]) -> Cost:
    """The cost that counts channels of these groups, each as one, heads too."""

    def cost(kept: Kept) -> float:
        return sum(kept.get(group.name, group.channels) for group in groups)

    return cost
