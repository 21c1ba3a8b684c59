"""Which channels may be scaled together without changing what a network computes.

Some values have one scale by channel in common: a layer's result, what a ReLU makes of it, a sum
and both of its operands. Where all that makes them can give each channel divided by a factor, and
all that takes them can multiply by it, the factor is free. Where one of them cannot, it is fixed
at 1, and the reason is kept.

Pairs of layers (Nagel et al., ICCV 2019, section 4.1) are the simplest case; sums (residual
networks), several readers and depthwise layers in a row need no other rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploykit.quantize.adjust.layers import Layer, channels_in, channels_out, layer_of
from deploykit.quantize.graph.values import attributes
from deploykit.quantize.prepare.layer_weights import all_float32

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from deploykit.quantize.graph.values import Graph

_FEATURES = 1
"""The dimension of channels in what convolutions make and take."""
_SCALE, _SHIFT = 1, 2
"""Positions of a norm's constants."""


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Constants by channel that scale with the value: of a norm, a product or a sum.

    Attributes:
        node: that reads them.
        positions: of its inputs.
        starts: whether its result is free whatever it reads: a norm or a product. A sum has the
            factors of its other operand.
    """

    node: onnx.NodeProto
    positions: tuple[int, ...]
    starts: bool


@dataclass(slots=True, eq=False)
class Channels:
    """Values that have one factor a channel in common.

    Attributes:
        size: how many channels.
        axis: their dimension.
        values: names.
        makers: layers whose result is divided by the factors.
        vectors: constants that are divided by them.
        takers: layers whose input is multiplied by them.
        caps: by the name of a clip's input its upper end: what reaches it must not be scaled.
        passing: values that a ReLU or clip reads and nobody else: they get no quantizer.
        fixed: why the factors have to be 1, or "".
    """

    size: int
    axis: int
    values: list[str]
    makers: list[Layer] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    takers: list[Layer] = field(default_factory=list)
    caps: dict[str, float] = field(default_factory=dict)
    passing: set[str] = field(default_factory=set)
    fixed: str = ""


def channels_of(graph: Graph) -> tuple[Channels, ...]:
    """All sets of values with factors of their own, in the order of the graph."""
    work = _Tracing(graph, shapes_of(graph))
    for node in graph.nodes:
        work.follow(node)
    for name in graph.kept:
        work.fix(name, f"{name} is an output of the network, or a subgraph reads it")
    return tuple({id(one): one for one in work.sets.values()}.values())


def shapes_of(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes of values where their rank is known; sizes that are not fixed are 0."""
    frame = graph.frame.graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*frame.value_info, *frame.input, *frame.output)
        if value.type.tensor_type.HasField("shape")
    }


@dataclass(slots=True, eq=False)
class _Tracing:
    """Sets that are being found."""

    graph: Graph
    shapes: Mapping[str, tuple[int, ...]]
    sets: dict[str, Channels] = field(default_factory=dict)

    def fix(self, name: str, why: str) -> None:
        """The factors of a value have to be 1."""
        found = self.sets.get(name)
        if found is not None and not found.fixed:
            found.fixed = why

    def follow(self, node: onnx.NodeProto) -> None:
        """See what a node does to the channels of what it reads."""
        layer = layer_of(node, self.graph)
        if layer is not None and self._layer(layer):
            return
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        if layer is not None or rule is None or not rule(self, node):
            for name in node.input:
                self.fix(name, f"{node.name} ({node.op_type}) does not let factors through")

    def _layer(self, layer: Layer) -> bool:
        node = layer.node
        source, made = node.input[0], node.output[0]
        taken, given = self._axis(node, source), self._axis(node, made)
        found = self.sets.get(source)
        if found is not None:
            if found.axis == taken and found.size == channels_in(layer.form):
                found.takers.append(layer)
            else:
                self.fix(source, f"{node.name} takes other dimensions for channels")
        if given is not None:
            self._new(made, channels_out(layer.form), given).makers.append(layer)
        return True

    def _axis(self, node: onnx.NodeProto, name: str) -> int | None:
        """The dimension of channels in what a layer makes or takes."""
        if node.op_type != "MatMul":
            return _FEATURES
        return len(self.shapes[name]) - 1 if self.shapes.get(name) else None

    def _new(self, name: str, size: int, axis: int) -> Channels:
        self.sets[name] = Channels(size, axis, [name])
        return self.sets[name]

    def same(self, node: onnx.NodeProto, sources: Sequence[str]) -> bool:
        """What a node makes has the factors of what it reads."""
        made = node.output[0]
        sets = [self.sets.get(name) for name in sources]
        known = [one for one in sets if one is not None]
        if not known or len(node.output) > 1:
            return False
        first = known[0]
        for other in known[1:]:
            if other is not first:
                self._merge(first, other)
        if len(known) < len(sets):
            first.fixed = first.fixed or f"{node.name} reads a value that cannot be scaled"
        first.values.append(made)
        self.sets[made] = first
        return True

    def _merge(self, one: Channels, other: Channels) -> None:
        if (one.size, one.axis) != (other.size, other.axis):
            one.fixed = one.fixed or f"{other.values[0]} has other channels"
        one.values += other.values
        one.makers += other.makers
        one.vectors += other.vectors
        one.takers += other.takers
        one.caps |= other.caps
        one.passing |= other.passing
        one.fixed = one.fixed or other.fixed
        self.sets.update(dict.fromkeys(other.values, one))

    def homogeneous(self, node: onnx.NodeProto) -> bool:
        """f(s x) = s f(x) for s > 0."""
        return self.same(node, node.input[:1])

    def relu(self, node: onnx.NodeProto) -> bool:
        """Quantizers absorb a ReLU: what it reads is not seen by one."""
        done = self.homogeneous(node)
        if done and self.graph.sole_producer(node.input[0]) is not None:
            self.sets[node.output[0]].passing.add(node.input[0])
        return done

    def pool(self, node: onnx.NodeProto) -> bool:
        """Channels of a pool are always the second dimension."""
        found = self.sets.get(node.input[0])
        return found is not None and found.axis == _FEATURES and self.same(node, node.input[:1])

    def slope(self, node: onnx.NodeProto) -> bool:
        """PRelu with constant slopes."""
        return node.input[1] in self.graph.constants and self.same(node, node.input[:1])

    def clip(self, node: onnx.NodeProto) -> bool:
        """A clip from 0 on lets through what does not reach its end."""
        names = [*node.input, "", ""]
        low, high = names[1], names[2]
        if not all(name in self.graph.constants for name in (low, high) if name) or not low:
            return False
        if float(self.graph.array(low)) != 0.0 or not self.relu(node):
            return False
        if high:
            self.sets[node.output[0]].caps[node.input[0]] = float(self.graph.array(high))
        return True

    def sum(self, node: onnx.NodeProto) -> bool:
        """A sum of two values, or of a value and a constant by channel."""
        variable = [name for name in node.input if name not in self.graph.constants]
        if len(variable) == 1:
            source = variable[0]
            position = 1 - list(node.input).index(source)
            found = self.sets.get(source)
            if found is None or not self._is_by_channel(node.input[position], source, found):
                return False
            found.vectors.append(Vectors(node, (position,), starts=False))
            return self.same(node, variable)
        ranks = {len(self.shapes.get(name, ())) for name in variable}
        return len(ranks) == 1 and 0 not in ranks and self.same(node, variable)

    def _is_by_channel(self, name: str, source: str, found: Channels) -> bool:
        """Whether a constant has one number a channel."""
        rank = len(self.shapes.get(source, ()))
        return self._vector_size(name, rank, found.axis) == found.size

    def _vector_size(self, name: str, rank: int, axis: int) -> int:
        """Channels of a constant that differs along this dimension only; 0 for another."""
        if not rank or not all_float32([name], self.graph):
            return 0
        dims = [int(size) for size in self.graph.constants[name].dims]
        if len(dims) > rank:
            return 0
        whole = [1] * (rank - len(dims)) + dims
        size = whole.pop(axis)
        return size if all(other == 1 for other in whole) else 0

    def product(self, node: onnx.NodeProto) -> bool:
        """A product with a constant of one number for each index of the last dimension."""
        variable = [name for name in node.input if name not in self.graph.constants]
        if len(variable) != 1:
            return False
        rank = len(self.shapes.get(variable[0], ()))
        position = 1 - list(node.input).index(variable[0])
        size = self._vector_size(node.input[position], rank, rank - 1)
        if size <= 1 or self.shapes[variable[0]][-1] not in {0, size}:
            return False
        self.fix(variable[0], f"{node.name} starts other factors")
        self._new(node.output[0], size, rank - 1).vectors.append(
            Vectors(node, (position,), starts=True)
        )
        return True

    def norm(self, node: onnx.NodeProto) -> bool:
        """A norm's result is free: its scale and shift take the factors."""
        rank = len(self.shapes.get(node.input[0], ()))
        last = node.op_type == "LayerNormalization"
        if last and attributes(node).get("axis", -1) not in {-1, rank - 1}:
            return False
        names = [name for name in node.input[_SCALE : _SHIFT + 1] if name]
        if not rank or len(node.output) > 1 or not all_float32(names, self.graph):
            return False
        dims = [list(self.graph.constants[name].dims) for name in names]
        if any(one != dims[0] or len(one) != 1 for one in dims):
            return False
        self.fix(node.input[0], f"{node.name} ({node.op_type}) undoes factors")
        axis = rank - 1 if last else _FEATURES
        positions = tuple(range(_SCALE, _SCALE + len(names)))
        made = self._new(node.output[0], int(dims[0][0]), axis)
        made.vectors.append(Vectors(node, positions, starts=True))
        return True

    def flat(self, node: onnx.NodeProto) -> bool:
        """Dimensions of size 1 behind the channels go or come; all else stays."""
        before = self.shapes.get(node.input[0], ())
        after = self.shapes.get(node.output[0], ())
        found = self.sets.get(node.input[0])
        if found is None or found.axis != _FEATURES or len(before) < 2 or len(after) < 2:
            return False
        ones = all(size == 1 for size in (*before[2:], *after[2:]))
        return ones and after[1] == found.size and self.same(node, node.input[:1])


_RULES: Mapping[str, Callable[[_Tracing, onnx.NodeProto], bool]] = {
    "Relu": _Tracing.relu,
    "LeakyRelu": _Tracing.homogeneous,
    "PRelu": _Tracing.slope,
    "Clip": _Tracing.clip,
    "MaxPool": _Tracing.pool,
    "AveragePool": _Tracing.pool,
    "GlobalAveragePool": _Tracing.pool,
    "GlobalMaxPool": _Tracing.pool,
    "Add": _Tracing.sum,
    "Mul": _Tracing.product,
    "LayerNormalization": _Tracing.norm,
    "BatchNormalization": _Tracing.norm,
    "InstanceNormalization": _Tracing.norm,
    "Flatten": _Tracing.flat,
    "Reshape": _Tracing.flat,
    "Squeeze": _Tracing.flat,
}
