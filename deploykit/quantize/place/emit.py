"""A decision as a graph: QuantizeLinear and DequantizeLinear around what is quantized.

Every value has one pair, right behind whoever makes it, and everyone who reads it quantized reads
behind the pair. Weights and biases are integers with one DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.quantize.graph.values import attributes, without_weights
from deploykit.quantize.graph.wiring import Wiring
from deploykit.quantize.place.conditions import channels_read
from deploykit.quantize.place.hard import HARD_SIGMOID, HARD_SWISH, HardNodes
from deploykit.quantize.place.numbers import (
    Grid,
    best_weight_grid,
    bias_grid,
    grid_of,
    weight_grid,
    with_room_for,
)
from deploykit.quantize.place.targets import Channel, Out

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.place.decide import Decision
    from deploykit.quantize.place.targets import Placement, Rule
    from deploykit.quantize.ranges import Range

_PER_CHANNEL_DIMS = 2  # of a MatMul's weights; integer kernels want one scale for stacks of them


def emit(
    model: onnx.ModelProto,
    placement: Placement,
    decision: Decision,
    ranges: Mapping[str, Range],
    folder: Path | None = None,
) -> onnx.ModelProto:
    """The quantized graph.

    Args:
        model: prepared, with its weights; not changed.
        placement: of the target.
        decision: made from the same graph.
        ranges: of values, by name.
        folder: where external data lies; what is not quantized stays there.
    """
    made = without_weights(model)
    made.graph.node.extend(model.graph.node)
    made.graph.initializer.extend(model.graph.initializer)
    work = _Emitting(Wiring.of(made, folder), placement, decision, ranges)
    work.choose_grids()
    for node in list(made.graph.node):
        rule = decision.nodes.get(node.name)
        if rule is not None:
            work.constants(node, rule)
    work.hard_nodes()
    work.pairs()
    work.finish()
    return made


@dataclass(slots=True, eq=False)
class _Emitting:
    """A graph that is being rewritten."""

    wiring: Wiring
    placement: Placement
    decision: Decision
    ranges: Mapping[str, Range]
    grids: dict[str, Grid] = field(default_factory=dict)
    behind: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    """New nodes by the name of the value that they follow; "" for those that follow nothing."""
    written: dict[tuple[str, object], str] = field(default_factory=dict)
    """Names behind the dequantizer of a constant, by its name and grid."""
    scales: dict[tuple[object, ...], tuple[str, str]] = field(default_factory=dict)
    hard: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    """Nodes that read a value's integers with other scales, by its name."""

    def choose_grids(self) -> None:
        """A grid for each activation."""
        gates = {self.decision.results[node.name] for node in self._of_op(HARD_SIGMOID)}
        for name, span in self.decision.values.items():
            low = min(self.ranges[one].low for one in span)
            high = max(self.ranges[one].high for one in span)
            if gates.issuperset(span):  # its quantizer is what clips
                low, high = max(low, 0.0), min(high, 1.0)
            placement = self.placement
            grid = grid_of(low, high, placement.activation, symmetric=placement.symmetric)
            self.grids[name] = grid

    def _of_op(self, *operators: str) -> list[onnx.NodeProto]:
        """Nodes that are quantized."""
        chosen = self.decision.nodes
        nodes = self.wiring.graph.node
        return [node for node in nodes if node.op_type in operators and node.name in chosen]

    def hard_nodes(self) -> None:
        """What has no integer kernel of its own, as sums and products, which have one."""
        for node in self._of_op(HARD_SIGMOID, HARD_SWISH):
            name = node.input[0]
            new = HardNodes(self._constants_of, self._integers).rewrite(
                node, f"{name}/quantized", self.grids[name]
            )
            self.hard.setdefault(name, []).extend(new)

    def _integers(self, name: str, values: NDArray[Any]) -> str:
        """Write a constant; its name."""
        from onnx import numpy_helper

        self.wiring.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def pairs(self) -> None:
        """A pair for each activation."""
        integer = self._made_as_integers()
        for name, grid in self.grids.items():
            self._pair(name, grid, all_readers=name in integer)

    def _made_as_integers(self) -> set[str]:
        """Results whose float values no longer exist: their makers give integers."""
        found: set[str] = set()
        for node in self.wiring.graph.node:
            rule = self.decision.nodes.get(node.name)
            if rule is not None and rule.out is not Out.NEVER:
                found.update((self.decision.results[node.name], *node.output[1:]))
        return found

    def _pair(self, name: str, grid: Grid, *, all_readers: bool) -> None:
        from onnx import helper

        source, behind = name, f"{name}/dequantized"
        if all_readers and name in self.wiring.outputs:
            source, behind = f"{name}/float", name
            _rename_output(self.wiring.makers[name], name, source)
        scale, zero = self._constants_of(name, grid)
        middle = f"{name}/quantized"
        nodes = [
            helper.make_node(
                "QuantizeLinear", [source, scale, zero], [middle], f"{name}/QuantizeLinear"
            ),
            helper.make_node(
                "DequantizeLinear", [middle, scale, zero], [behind], f"{name}/DequantizeLinear"
            ),
        ]
        nodes += self.hard.get(name, ())
        self.behind[source] = nodes
        for reader in self.wiring.readers.get(name, ()):
            if all_readers and self._would_be_quantized(reader):
                _replace_input(reader, name, self._by_channel(name, grid, reader, nodes))
            elif behind != name and (all_readers or name in self._quantized_reads(reader)):
                _replace_input(reader, name, behind)

    def _would_be_quantized(self, node: onnx.NodeProto) -> bool:
        """Whether the runtime would make integers of a layer that stays float."""
        wanted = self.placement.requantized
        float_layer = node.op_type in wanted and node.name not in self.decision.nodes
        return float_layer and node.input[1] in self.wiring.constants

    def _by_channel(
        self, name: str, grid: Grid, reader: onnx.NodeProto, nodes: list[onnx.NodeProto]
    ) -> str:
        """A value dequantized with the same scale for every channel, written out; its name.

        ONNX Runtime (1.21 on, WeightBiasQuantization) gives integer weights to any layer between a
        dequantizer of one scale and a quantizer: one that stays float for its accuracy would not.
        """
        from onnx import helper

        behind = f"{name}/by-channel"
        if not any(behind in node.output for node in nodes):
            axis, size = channels_read(reader, list(self.wiring.constants[reader.input[1]].dims))
            spread = Grid(np.full(size, grid.scale), np.full(size, grid.zero), axis)
            scale, zero = self._constants_of(behind, spread)
            inputs, title = [f"{name}/quantized", scale, zero], f"{behind}/DequantizeLinear"
            nodes.append(helper.make_node("DequantizeLinear", inputs, [behind], title, axis=axis))
        return behind

    def _quantized_reads(self, node: onnx.NodeProto) -> set[str]:
        """What a node reads behind a quantizer."""
        rule = self.decision.nodes.get(node.name)
        if rule is None:
            return set()
        names = [node.input[i] for i in rule.reads or range(len(node.input)) if i < len(node.input)]
        return {name for name in names if name in self.decision.values}

    def constants(self, node: onnx.NodeProto, rule: Rule) -> None:
        """Weights and bias of a node as integers, and constants beside its activations."""
        weight_at, bias_at = rule.weight, rule.bias
        if weight_at is None or node.input[weight_at] not in self.wiring.constants:
            for position, name in enumerate(node.input):
                if name in self.wiring.constants and (not rule.reads or position in rule.reads):
                    self._operand(node, position)
            return
        weight = self._weights(node, rule, weight_at)
        if bias_at is None or not self.placement.bias:
            return
        if len(node.input) > bias_at and node.input[bias_at] in self.wiring.constants:
            inputs = self.grids[node.input[rule.reads[0]]]
            # A Gemm's may also be a number or a row, [1, channels].
            values = self.wiring.values(node.input[bias_at]).reshape(-1)
            self._write(node, bias_at, values, bias_grid(inputs, weight))

    def _weights(self, node: onnx.NodeProto, rule: Rule, position: int) -> Grid:
        values = self.wiring.values(node.input[position])
        axis = _axis(node, rule, values) if self.placement.per_channel else None
        make = best_weight_grid if self.placement.weight_range == "mse" else weight_grid
        grid = make(values, axis, self.placement.weight_bits)
        bias = rule.bias
        name = node.input[bias] if bias is not None and len(node.input) > bias else ""
        if name in self.wiring.constants:
            # Float biases, too: ONNX Runtime makes 32-bit integers of them.
            inputs = self.grids[node.input[rule.reads[0]]]
            grid = with_room_for(self.wiring.values(name).reshape(-1), inputs, grid)
        self._write(node, position, values, grid)
        return grid

    def _operand(self, node: onnx.NodeProto, position: int) -> None:
        """A constant beside activations: on a grid of their kind."""
        values = self.wiring.values(node.input[position])
        if values.dtype != np.float32:
            return
        low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
        kind, symmetric = self.placement.activation, self.placement.symmetric
        self._write(node, position, values, grid_of(low, high, kind, symmetric=symmetric))

    def _write(self, node: onnx.NodeProto, position: int, values: NDArray[Any], grid: Grid) -> None:
        """Replace a constant by its integers and a dequantizer."""
        from onnx import helper

        name = node.input[position]
        key = (name, (grid.scale.tobytes(), str(grid.zero.dtype), grid.axis))
        behind = self.written.get(key)
        if behind is None:
            number = sum(known == name for known, _ in self.written)
            base = f"{name}/{number}" if number else name
            behind = f"{base}/dequantized"
            integers = self._integers(f"{base}/quantized", grid.quantized(values))
            scale, zero = self._constants_of(base, grid)
            axis: dict[str, Any] = {} if grid.axis is None else {"axis": grid.axis}
            self.behind.setdefault("", []).append(
                helper.make_node(
                    "DequantizeLinear",
                    [integers, scale, zero],
                    [behind],
                    f"{base}/DequantizeLinear",
                    **axis,
                )
            )
            self.written[key] = behind
        node.input[position] = behind

    def _constants_of(self, name: str, grid: Grid) -> tuple[str, str]:
        """Names of the scale and the zero point, each written once."""
        from onnx import numpy_helper

        key = (grid.scale.tobytes(), grid.scale.shape, grid.zero.tobytes(), str(grid.zero.dtype))
        known = self.scales.get(key)
        if known is None:
            known = f"{name}/scale", f"{name}/zero"
            self.wiring.graph.initializer.append(numpy_helper.from_array(grid.scale, known[0]))
            self.wiring.graph.initializer.append(numpy_helper.from_array(grid.zero, known[1]))
            self.scales[key] = known
        return known

    def finish(self) -> None:
        """New nodes in their places; constants that nobody reads any more are gone."""
        graph = self.wiring.graph
        nodes = list(self.behind.get("", ()))
        made = {value.name for value in graph.input} | set(self.wiring.constants)
        for name in made & self.behind.keys():
            nodes += self.behind[name]
        for node in graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self.behind.get(name, ())
        read = {name for node in nodes for name in node.input} | self.wiring.outer
        read |= {value.name for value in graph.output}
        # ONNX Runtime computes what nobody reads.
        idle = {
            id(node) for new in self.behind.values() for node in new if node.output[0] not in read
        }
        copies = [_copy(node) for node in nodes if id(node) not in idle]
        del graph.node[:]
        graph.node.extend(copies)
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        dropped = {tensor.name for tensor in graph.initializer} - read
        if dropped:
            copies_of = [_copy_tensor(tensor) for tensor in kept]
            del graph.initializer[:]
            graph.initializer.extend(copies_of)


def _axis(node: onnx.NodeProto, rule: Rule, weights: NDArray[Any]) -> int | None:
    """The dimension of a node's output channels in its weights."""
    given = attributes(node)
    if rule.channel is Channel.FIRST:
        return 0
    if rule.channel is Channel.SECOND:  # of a transposed convolution: [in, out / groups, ..]
        return 1 if given.get("group", 1) == 1 else None
    if rule.channel is Channel.GEMM:
        return 0 if given.get("transB", 0) else 1
    return weights.ndim - 1 if weights.ndim == _PER_CHANNEL_DIMS else None


def _replace_input(node: onnx.NodeProto, old: str, new: str) -> None:
    for position, name in enumerate(node.input):
        if name == old:
            node.input[position] = new


def _rename_output(node: onnx.NodeProto, old: str, new: str) -> None:
    for position, name in enumerate(node.output):
        if name == old:
            node.output[position] = new


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    made = onnx.NodeProto()
    made.CopyFrom(node)
    return made


def _copy_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    made = onnx.TensorProto()
    made.CopyFrom(tensor)
    return made
