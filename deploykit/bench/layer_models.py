"""ONNX models of single layers with chosen channel counts: what the latency table is measured on.

A model holds many *probes* side by side, each a chain of one or two layers with an input of its
own and one number for its output, so that one call of the model runs them all: drift of the machine
hits all alike, they share one pool of threads, and between two runs of a layer there are all the
others, as there are in a network. What stands around a layer is as in a network, too: a convolution
finds its input just written, in the layout that the runtime likes, because the change of layout at
the edge of the model is a kernel of its own, which is not counted (see `layer_timing`).

8-bit layers are written as QuantizeLinear and DequantizeLinear around the operator, which ONNX
Runtime fuses (ONNX Runtime, "Quantize ONNX Models", QDQ format): weights are symmetric, with a
scale for each output channel of a convolution; activations are unsigned on x86 and signed on ARM,
which is what the kernels there are made for.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx

    from deploykit.bench.layer_shapes import LayerShape
    from deploykit.load.data import Array

_IR_VERSION, _OPSET = 8, 17  # what every onnxruntime from 1.20 on reads
_OPERATORS = {"conv": "Conv", "conv_transpose": "ConvTranspose", "gemm": "Gemm", "matmul": "MatMul"}
_SCALE = 0.02  # of 8-bit activations; its value decides no kernel


@dataclass(frozen=True, slots=True)
class SizedLayer:
    """A layer with some of its channels.

    Attributes:
        shape: the layer at full size.
        inputs: channels that it reads.
        outputs: channels that it writes.
    """

    shape: LayerShape
    inputs: int
    outputs: int

    @property
    def weight_bytes(self) -> int:
        """Size of its weight."""
        return self.shape.weight_bytes(self.inputs, self.outputs)


@dataclass(frozen=True, slots=True)
class Probe:
    """What is timed as one thing: a layer, or one that writes channels and one that reads them.

    Attributes:
        layers: one or two; each reads what the one before it writes.
    """

    layers: tuple[SizedLayer, ...]

    @property
    def weight_bytes(self) -> int:
        """All of its weights."""
        return sum(layer.weight_bytes for layer in self.layers)


def write_probes(probes: Sequence[Probe], path: Path, seed: int) -> None:
    """Write a model of all probes; layer `j` of probe `k` has names that begin with `k/j/`.

    Args:
        probes: in the order in which their inputs and outputs stand in the graph.
        path: an `.onnx` file.
        seed: of the weights.
    """
    import onnx
    from onnx import helper

    parts = _Parts(seed)
    for number, probe in enumerate(probes):
        parts.add_probe(number, probe)
    graph = helper.make_graph(
        parts.nodes, "probes", parts.inputs, parts.outputs, list(parts.constants.values())
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    onnx.save(helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=opsets), path)


def write_idle_chain(length: int, path: Path) -> None:
    """Write a model of kernels that do next to nothing, one after another, for `x` of shape [1]."""
    import onnx
    from onnx import helper

    names = ["x", *(f"v{number}" for number in range(length))]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    first, last = (_value(name, (1,), np.float32) for name in (names[0], names[-1]))
    graph = helper.make_graph(nodes, "idle", [first], [last])
    opsets = [helper.make_opsetid("", _OPSET)]
    onnx.save(helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=opsets), path)


def signed_activations() -> bool:
    """Whether 8-bit activations are signed on this machine; see the module."""
    return platform.machine().lower() in ("aarch64", "arm64", "armv7l", "armv8l")


class _Parts:
    """The pieces of a graph while it grows."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._generator = np.random.default_rng(seed)
        self._byte = np.int8 if signed_activations() else np.uint8

    def add_probe(self, number: int, probe: Probe) -> None:
        first, last = probe.layers[0], probe.layers[-1]
        given, made = f"{number}/x", f"{number}/y"
        dtype = self._dtype(first.shape.precision)
        self.inputs.append(_value(given, _activation(first.shape, first.inputs), dtype))
        value = given
        for place, layer in enumerate(probe.layers):
            value = self._layer(f"{number}/{place}/", layer, value)
        # One number goes out: a whole activation would be copied to the host.
        rank = len(_activation(last.shape, last.outputs))
        axes = np.zeros(rank, np.int64), np.ones(rank, np.int64)
        cut = [self._constant(f"{name}{rank}", a) for name, a in zip("se", axes, strict=True)]
        self._node("Slice", [value, *cut], made, f"{number}/end")
        self.outputs.append(_value(made, (1,) * rank, self._dtype(last.shape.precision)))

    def _layer(self, prefix: str, layer: SizedLayer, value: str) -> str:
        shape = layer.shape
        if shape.precision == "int8":
            return self._quantized(prefix, layer, value)
        dtype = self._dtype(shape.precision)
        sizes = shape.weight_shape(layer.inputs, layer.outputs)
        given = [value, self._constant(f"{prefix}w", self._random(sizes).astype(dtype))]
        bias = np.zeros(layer.outputs, dtype)
        if shape.bias and shape.kind != "matmul":
            given.append(self._constant(f"{prefix}b", bias))
        value = self._operator(prefix, layer, given)
        if shape.bias and shape.kind == "matmul":
            added = [value, self._constant(f"{prefix}b", bias)]
            value = self._node("Add", added, f"{prefix}a", f"{prefix}add")
        return self._node("Relu", [value], f"{prefix}r", f"{prefix}relu") if shape.relu else value

    def _quantized(self, prefix: str, layer: SizedLayer, value: str) -> str:
        """Between 8-bit activations. A matmul's bias is left out: a quantizer folds or drops it."""
        shape = layer.shape
        scale = self._constant("scale", np.float32(_SCALE))
        zero = self._constant("zero", self._byte(0))
        x = self._node("DequantizeLinear", [value, scale, zero], f"{prefix}xf", f"{prefix}dx")
        weight = self._random(shape.weight_shape(layer.inputs, layer.outputs))
        axis = {"conv": 0, "conv_transpose": None, "gemm": None, "matmul": None}[shape.kind]
        others = None if axis is None else tuple(range(1, weight.ndim))
        steps = np.abs(weight).max(axis=others, keepdims=axis is not None) / np.float32(127)
        byte = np.clip(np.round(weight / steps), -127, 127).astype(np.int8)
        steps = np.asarray(steps, np.float32).reshape(-1 if axis is not None else ())
        given = [x, self._dequantized(f"{prefix}w", byte, steps, axis)]
        if shape.bias and shape.kind != "matmul":
            count = (layer.outputs,)
            whole = np.zeros(count, np.int32)
            bias = self._dequantized(f"{prefix}b", whole, steps * np.float32(_SCALE), axis)
            given.append(bias)
        value = self._operator(prefix, layer, given)
        if shape.relu:
            value = self._node("Relu", [value], f"{prefix}r", f"{prefix}relu")
        return self._node("QuantizeLinear", [value, scale, zero], f"{prefix}q", f"{prefix}qy")

    def _dequantized(self, name: str, values: Array, steps: Array, axis: int | None) -> str:
        given = [
            self._constant(name, values),
            self._constant(f"{name}s", steps),
            self._constant(f"{name}z", np.zeros(steps.shape, values.dtype)),
        ]
        attributes = {} if axis is None else {"axis": axis}
        return self._node("DequantizeLinear", given, f"{name}f", f"{name}d", **attributes)

    def _operator(self, prefix: str, layer: SizedLayer, given: list[str]) -> str:
        shape = layer.shape
        attributes: dict[str, int | tuple[int, ...]] = {}
        if shape.kind == "gemm":
            attributes["transB"] = 1
        elif shape.kernel:
            attributes = {
                "kernel_shape": shape.kernel, "strides": shape.stride, "pads": shape.padding,
                "dilations": shape.dilation, "group": shape.groups_at(layer.inputs),
            }  # fmt: skip
        if shape.output_padding:
            attributes["output_padding"] = shape.output_padding
        operator = _OPERATORS[shape.kind]
        return self._node(operator, given, f"{prefix}o", f"{prefix}layer", **attributes)

    def _node(
        self,
        operator: str,
        given: list[str],
        made: str,
        name: str,
        **attributes: int | tuple[int, ...],
    ) -> str:
        from onnx import helper

        node = helper.make_node(operator, given, [made], name=name)
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self.nodes.append(node)
        return made

    def _constant(self, name: str, value: Array | np.generic) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _random(self, sizes: tuple[int, ...]) -> Array:
        drawn = self._generator.standard_normal(sizes, np.float32)
        return np.asarray(drawn * np.float32(0.05))

    def _dtype(self, precision: str) -> type[np.generic]:
        return {"float32": np.float32, "float16": np.float16, "int8": self._byte}[precision]


def _activation(shape: LayerShape, channels: int) -> tuple[int, ...]:
    """The sizes of a layer's input or output as far as their number and channels matter."""
    if shape.kernel:
        return (shape.batch, channels, *shape.spatial)
    return (shape.batch, *shape.spatial, channels)


def _value(name: str, sizes: tuple[int, ...], dtype: type[np.generic]) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sizes
    )
