"""The layers of a quantized graph: their integers, their biases, and how both are replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.quantize.adjust.layers import OPERATORS, Form, channels_out, form_of
from deploykit.quantize.graph.values import attributes
from deploykit.quantize.place.numbers import Grid, bias_grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from numpy.typing import NDArray

_BIAS = 2
_LEAST_DIMS = 2


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLayer:
    """A node whose weight is a constant in integers.

    Attributes:
        node: of the quantized graph.
        form: of its weight.
        weight: the name of the integers.
        grid: of the weight.
        inputs: the grid of what it reads, or `None` where that is no quantized value.
    """

    node: onnx.NodeProto
    form: Form
    weight: str
    grid: Grid
    inputs: Grid | None

    @property
    def takes_bias(self) -> bool:
        """Whether the operator has an input for a bias."""
        return bool(self.node.op_type != "MatMul")

    @property
    def channel_axis(self) -> int:
        """The dimension of channels in its result."""
        return -1 if self.node.op_type in {"Gemm", "MatMul"} else 1


class IntegerGraph:
    """A quantized graph whose constants are replaced in place.

    Attributes:
        model: the graph; it changes.
        bits: of weights in use.
    """

    def __init__(self, model: onnx.ModelProto, bits: int) -> None:
        self.model, self.bits = model, bits
        self._index()

    def layers(self) -> Iterator[IntegerLayer]:
        """All of them, in the order of the graph."""
        for node in list(self.model.graph.node):
            if node.op_type in OPERATORS and node.domain == "":
                found = self._layer(node)
                if found is not None:
                    yield found

    def _layer(self, node: onnx.NodeProto) -> IntegerLayer | None:
        source = self._dequantizer(node.input[1])
        if source is None or node.input[0] in self._constants:
            return None
        dims = tuple(int(size) for size in self._constants[source.input[0]].dims)
        if len(dims) < _LEAST_DIMS or (node.op_type == "MatMul" and len(dims) > _LEAST_DIMS):
            return None
        reads = self._makers.get(node.input[0])
        inputs = None
        if reads is not None and reads.op_type == "DequantizeLinear":
            inputs = self._grid(reads)
        return IntegerLayer(node, form_of(node, dims), source.input[0], self._grid(source), inputs)

    def is_shared(self, layer: IntegerLayer) -> bool:
        """Whether other nodes have the same weight."""
        readers = self._readers
        return len(readers[layer.weight]) > 1 or len(readers[layer.node.input[1]]) > 1

    def integers(self, name: str) -> NDArray[Any]:
        """A constant."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[name])

    def set_weight(self, layer: IntegerLayer, integers: NDArray[Any]) -> None:
        """Replace the weight of a layer that does not share it."""
        self._set(layer.weight, integers)

    def bias(self, layer: IntegerLayer) -> NDArray[np.float64] | None:
        """What is added to a layer's products, by channel; `None` where nothing can be.

        A MatMul's bias is the float constant of the sum behind it.
        """
        node, position = self._bias_at(layer)
        if node is None:
            return None
        if len(node.input) <= position or not node.input[position]:
            return np.zeros(channels_out(layer.form))
        name = node.input[position]
        source = self._dequantizer(name)
        if source is not None:
            found = self._grid(source).restored(self.integers(source.input[0]))
        elif name in self._constants:
            found = self.integers(name)
        else:
            return None
        fits = found.shape[-1:] == (channels_out(layer.form),) and found.size == found.shape[-1]
        return found.astype(np.float64).reshape(-1) if fits else None

    def own_bias(self, layer: IntegerLayer, *, integer: bool) -> None:
        """See to it that a layer has a bias which it shares with nobody, of the same values.

        Nodes may move: layers have to be asked for anew.

        Args:
            layer: one whose `bias` is not `None`.
            integer: whether a bias that was not there before is one of 32-bit integers.
        """
        values = self.bias(layer)
        node, position = self._bias_at(layer)
        assert node is not None
        assert values is not None
        name = node.input[position] if len(node.input) > position else ""
        source = self._dequantizer(name) if name else None
        if name and not self._is_read_twice(name, source):
            return
        if source is not None:
            grid = self._grid(source)
        elif integer and not name and layer.inputs is not None:
            grid = bias_grid(layer.inputs, layer.grid)
        else:
            self._give(node, position, values.astype(np.float32), f"{layer.weight}/bias")
            return
        self._give_integers(node, position, _steps(values, grid), grid, f"{layer.weight}/bias")

    def set_bias(self, layer: IntegerLayer, values: NDArray[np.float64]) -> None:
        """Replace the bias of a layer that has its own.

        Args:
            layer: one that was given to `own_bias`.
            values: [out].
        """
        node, position = self._bias_at(layer)
        assert node is not None
        name = node.input[position]
        source = self._dequantizer(name)
        if source is None:
            self._set(name, values.astype(np.float32).reshape(self.integers(name).shape))
        else:
            self._set(source.input[0], _steps(values, self._grid(source)))

    def _is_read_twice(self, name: str, source: onnx.NodeProto | None) -> bool:
        names = [name] if source is None else [name, source.input[0]]
        return any(len(self._readers[one]) > 1 for one in names)

    def _bias_at(self, layer: IntegerLayer) -> tuple[onnx.NodeProto | None, int]:
        node = layer.node
        if node.op_type != "MatMul":
            return node, _BIAS
        readers = self._readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in self._outputs:
            return None, 0
        position = 1 - list(readers[0].input).index(node.output[0])
        is_constant = readers[0].input[position] in self._constants
        return (readers[0], position) if is_constant else (None, 0)

    def _give(self, node: onnx.NodeProto, position: int, values: NDArray[Any], name: str) -> None:
        """Have a node read a float constant of its own."""
        from onnx import numpy_helper

        base = self._free(name)
        self.model.graph.initializer.append(numpy_helper.from_array(values, base))
        self._read(node, position, base)

    def _give_integers(
        self, node: onnx.NodeProto, position: int, integers: NDArray[Any], grid: Grid, name: str
    ) -> None:
        """Have a node read integers of its own behind a dequantizer."""
        from onnx import helper, numpy_helper

        base = self._free(name)
        parts = {"quantized": integers, "scale": grid.scale, "zero": grid.zero}
        for part, values in parts.items():
            self.model.graph.initializer.append(numpy_helper.from_array(values, f"{base}/{part}"))
        axis: dict[str, Any] = {} if grid.axis is None else {"axis": grid.axis}
        made = helper.make_node(
            "DequantizeLinear",
            [f"{base}/{part}" for part in parts],
            [f"{base}/dequantized"],
            f"{base}/DequantizeLinear",
            **axis,
        )
        self._read(node, position, f"{base}/dequantized")
        self.model.graph.node.insert(0, made)
        self._index()

    def _read(self, node: onnx.NodeProto, position: int, name: str) -> None:
        node.input.extend([""] * (position + 1 - len(node.input)))
        node.input[position] = name
        self._index()

    def _free(self, name: str) -> str:
        free, count = name, 1
        while f"{free}/quantized" in self._constants or free in self._constants:
            count += 1
            free = f"{name}_{count}"
        return free

    def _set(self, name: str, values: NDArray[Any]) -> None:
        from onnx import numpy_helper

        self._constants[name].CopyFrom(numpy_helper.from_array(values, name))

    def _dequantizer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value of a constant in integers."""
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        return maker if maker.input[0] in self._constants else None

    def _grid(self, node: onnx.NodeProto) -> Grid:
        scale = self.integers(node.input[1])
        zero = (
            self.integers(node.input[2])
            if len(node.input) > _BIAS and node.input[2]
            else np.zeros(scale.shape, np.uint8)
        )
        axis = attributes(node).get("axis", 1) if scale.ndim else None
        assert axis is None or isinstance(axis, int)
        return Grid(scale, zero, axis, self.bits)

    def _index(self) -> None:
        graph = self.model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}


def _steps(values: NDArray[np.float64], grid: Grid) -> NDArray[np.int32]:
    """A bias in integers of its grid."""
    limit = np.iinfo(np.int32)
    steps = np.rint(values / grid.scale.astype(np.float64))
    return np.clip(steps, limit.min, limit.max).astype(np.int32)
