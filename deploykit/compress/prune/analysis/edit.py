"""What a rule sees when its node is cut: the same graph, and which indices of what are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.compress.prune.analysis.rules.call import argument, set_argument
from deploykit.compress.prune.analysis.trace import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch.fx import Node

    from deploykit.compress.prune.analysis.labels import Axis, Column, Mask


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One node of the cut graph.

    Attributes:
        node: in the new graph; arguments are changed here.
        old: the same node in the original graph, whose inputs `values` knows.
        values: of the original graph.
        gone: whether a label goes, by label.
        constant: adds a tensor to the new graph and gives its node.
        tensors: parameters and constants of the original graph.
    """

    node: Node
    old: Node
    values: Mapping[Node, Value | tuple[Value | None, ...] | None]
    gone: Callable[[Column], Mask]
    constant: Callable[[Any], Node]
    tensors: Mapping[str, Tensor]

    def arg(self, name: str) -> Any:
        """An argument, with nodes of the original graph."""
        return argument(self.old, name)

    def new_arg(self, name: str) -> Any:
        """An argument, with nodes of the new graph."""
        return argument(self.node, name)

    def set(self, name: str, value: Any) -> None:
        """Change an argument."""
        set_argument(self.node, name, value)

    def value(self, arg: Any) -> Value:
        """A tensor of the original graph."""
        found = self.values[arg]
        assert isinstance(found, Value), f"{arg} is no tensor"
        return found

    @property
    def result(self) -> Value:
        """What the node gave in the original graph."""
        return self.value(self.old)

    def kept(self, axis: Axis, size: int) -> Mask:
        """Bool [size]: which indices of a dimension stay."""
        stays = np.ones(size, dtype=bool)
        for column in axis:
            stays &= ~self.gone(column)
        return stays

    def keeps(self, value: Value, dim: int) -> Mask:
        """Bool [size]: which indices of a tensor's dimension stay."""
        return self.kept(value.axes[dim], value.shape[dim])

    def shrinks(self, value: Value, dim: int) -> bool:
        """Whether a dimension gets smaller."""
        return not bool(self.keeps(value, dim).all())

    def count(self, value: Value, dim: int) -> int:
        """How many indices of a dimension stay."""
        return int(self.keeps(value, dim).sum())

    def groups_left(self, value: Value, dim: int, groups: int) -> int:
        """Of so many equal groups of a dimension's indices, those that have any left."""
        return int(self.keeps(value, dim).reshape(groups, -1).any(axis=1).sum())
