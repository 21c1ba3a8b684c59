"""One call of an operator, with its arguments by the names of its schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from deploykit.compress.prune.analysis.trace import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.fx import Node

    from deploykit.compress.prune.analysis.trace import Trace

    Result = Value | tuple["Value | None", ...] | None


class Unruled(Exception):  # noqa: N818 - no error: the caller locks
    """A call has another form than its rule knows (an overload, a variant of the arguments)."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a rule gets.

    Attributes:
        trace: the analysis it takes part in.
        node: in the graph.
        name: of the operator without namespace and overload, such as "conv2d".
        shapes: of its result, or of each of its results.
        values: of all nodes before it.
    """

    trace: Trace
    node: Node
    name: str
    shapes: tuple[Any, ...]
    values: dict[Node, Result]

    def arg(self, name: str) -> Any:
        """An argument as it stands in the graph, or its default; `None` where there is none."""
        return argument(self.node, name)

    def value(self, name: str) -> Value:
        """A tensor argument."""
        found = self.of(self.arg(name))
        if found is None:
            raise Unruled(name)
        return found

    def maybe(self, name: str) -> Value | None:
        """A tensor argument that may be left out."""
        return self.of(self.arg(name))

    def of(self, arg: object) -> Value | None:
        """The tensor that an argument is."""
        found = self.values.get(cast("Node", arg)) if hasattr(arg, "users") else None
        return found if isinstance(found, Value) else None

    def all(self, name: str) -> list[Value]:
        """The tensors of a list."""
        return [value for arg in self.arg(name) if (value := self.of(arg)) is not None]

    @property
    def schema(self) -> Sequence[Any]:
        """The operator's arguments, as torch declares them."""
        schema = getattr(self.node.target, "_schema", None)
        return () if schema is None else tuple(schema.arguments)

    @property
    def inputs(self) -> list[Value]:
        """Every tensor that goes in."""
        return [value for node in self.node.all_input_nodes if (value := self.of(node)) is not None]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the one result."""
        return self.shapes


def argument(node: Node, name: str) -> Any:
    """An argument of an operator by its name in the schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.kwargs.get(name)
    for place, known in enumerate(schema.arguments):
        if known.name == name:
            if not known.kwarg_only and place < len(node.args):
                return node.args[place]
            default = known.default_value if known.has_default_value() else None
            return node.kwargs.get(name, default)
    return None


def set_argument(node: Node, name: str, value: Any) -> None:
    """Change an argument in the graph."""
    schema = getattr(node.target, "_schema", None)
    assert schema is not None, f"{node.target} has no schema"
    for place, known in enumerate(schema.arguments):
        if known.name != name:
            continue
        if known.kwarg_only or place > len(node.args):
            node.kwargs = {**node.kwargs, name: value}
        elif place == len(node.args):
            node.args = (*node.args, value)
        else:
            node.update_arg(place, value)


def packet_name(node: Node) -> str:
    """Of the operator, without namespace and overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(getattr(packet, "__name__", getattr(node.target, "__name__", node.target)))
