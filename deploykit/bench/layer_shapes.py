"""The layers of an ONNX graph that pruning makes faster, and what decides how long each takes.

A `LayerShape` has all that a kernel's time depends on but the channel counts that pruning changes,
and those at full size. Layers of equal shape take equally long, so that each shape is measured
once, however often a network has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

    from deploykit.bench.macs import Attributes
    from deploykit.core.types import OnnxArtifact

PRECISIONS = ("float32", "int8", "float16")
_SCOPE = "deploykit.scope"  # metadata of nodes, written by deploykit.export.translate
_KINDS = {"Conv": "conv", "ConvTranspose": "conv_transpose", "Gemm": "gemm", "MatMul": "matmul"}
_RELU = frozenset({"Relu", "Clip"})  # the runtime fuses both into a convolution


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What the time of a layer depends on, at full size.

    Attributes:
        kind: "conv", "conv_transpose", "gemm" (2-D input) or "matmul" (any rank, weight constant).
        inputs: channels that it reads.
        outputs: channels that it writes.
        batch: size of the first dimension.
        spatial: sizes of its input between batch and channels or behind them: height and width
            of a convolution, tokens of a matmul; `()` of a gemm.
        kernel: of a convolution, one size a spatial dimension.
        stride: likewise.
        padding: at the beginning of each spatial dimension, then at the end of each.
        dilation: likewise.
        output_padding: of a transposed convolution.
        groups: of a convolution. Where every input channel is a group (depthwise), there stay as
            many groups as input channels are kept.
        bias: whether there is one.
        relu: whether a Relu or Clip follows, at once or behind the sum of a residual connection:
            the runtime fuses it where it can.
        precision: "float32", "int8" (8-bit weights and activations) or "float16".
    """

    kind: str
    inputs: int
    outputs: int
    batch: int = 1
    spatial: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = True
    relu: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Refuse what is no layer."""
        if self.kind not in _KINDS.values():
            raise BadInputError(
                f"a layer's kind is one of {', '.join(_KINDS.values())}, not {self.kind!r}"
            )
        if self.precision not in PRECISIONS:
            raise BadInputError(
                f"a layer's precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}"
            )
        rank = len(self.kernel)
        sizes = self.spatial, self.stride, self.dilation, self.padding[rank:], self.padding[:rank]
        if rank and any(len(size) != rank for size in sizes):
            raise BadInputError(
                f"a {self.kind} with a {rank}-D kernel needs {rank} sizes, strides and dilations "
                f"and {2 * rank} paddings"
            )

    @property
    def output_spatial(self) -> tuple[int, ...]:
        """Spatial sizes of its output, by the formulas of ONNX's Conv and ConvTranspose."""
        if not self.kernel:
            return self.spatial
        rank = len(self.kernel)
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [a + b for a, b in zip(self.padding[:rank], self.padding[rank:], strict=True)]
        if self.kind == "conv":
            return tuple(
                (size + pad - span) // step + 1
                for size, pad, span, step in zip(
                    self.spatial, padded, reach, self.stride, strict=True
                )
            )
        return tuple(
            (size - 1) * step + span - pad + more
            for size, pad, span, step, more in zip(
                self.spatial, padded, reach, self.stride, self.output_padding, strict=True
            )
        )

    @property
    def depthwise(self) -> bool:
        """Whether every input channel is convolved by itself."""
        return self.groups > 1 and self.groups == self.inputs

    def fits(self, inputs: int, outputs: int) -> bool:
        """Whether there can be such a layer with these channel counts."""
        if self.depthwise:
            return inputs >= 1 and outputs * self.inputs == inputs * self.outputs
        least = min(inputs, outputs)
        return least >= 1 and inputs % self.groups == 0 and outputs % self.groups == 0

    def groups_at(self, inputs: int) -> int:
        """The groups that are left with this many input channels."""
        return inputs if self.depthwise else self.groups

    def weight_shape(self, inputs: int, outputs: int) -> tuple[int, ...]:
        """Sizes of the weight as ONNX has it.

        Raises:
            BadInputError: the counts do not go with the groups.
        """
        if not self.fits(inputs, outputs):
            raise BadInputError(
                f"a {self.kind} of {self.groups} groups cannot have {inputs} inputs and "
                f"{outputs} outputs"
            )
        groups = self.groups_at(inputs)
        if self.kind == "conv":
            return (outputs, inputs // groups, *self.kernel)
        if self.kind == "conv_transpose":
            return (inputs, outputs // groups, *self.kernel)
        return (outputs, inputs) if self.kind == "gemm" else (inputs, outputs)

    def weight_bytes(self, inputs: int, outputs: int) -> int:
        """Size of the weight at this precision."""
        element = {"float32": 4, "float16": 2, "int8": 1}[self.precision]
        return prod(self.weight_shape(inputs, outputs)) * element

    @property
    def text(self) -> str:
        """For tables and errors: `conv 32->64 3x3/2 at 28x28`."""
        words = [self.kind, f"{self.inputs}->{self.outputs}"]
        if self.kernel:
            stride = f"/{max(self.stride)}" if max(self.stride) > 1 else ""
            words.append("x".join(map(str, self.kernel)) + stride)
        if self.groups > 1:
            words.append("depthwise" if self.depthwise else f"{self.groups} groups")
        if self.spatial:
            words.append("at " + "x".join(map(str, self.spatial)))
        return " ".join(words)


def layer_shapes(
    artifact: OnnxArtifact, batch: int | None = None, precision: str | None = None
) -> dict[str, LayerShape]:
    """The convolutions and matrix products with constant weights, in the order of the graph.

    A key is the name of the weight in the PyTorch network, which our exports keep; where the
    exporter transposed a weight and so renamed it, the module that the node came from gives the
    name back. In foreign files a key is the name of the initializer. Layers in subgraphs, with an
    unknown shape, or with a weight that is computed, are left out.

    Args:
        artifact: ours or a foreign one; weights behind a DequantizeLinear count as 8-bit.
        batch: size of the first dynamic dimension.
        precision: to say of all layers; `None` takes what the graph has.

    Raises:
        BadInputError: not a readable ONNX file, or a batch that it does not allow.
    """
    from deploykit.bench.layers import sized_graph

    graph = sized_graph(artifact, batch).graph
    found: dict[str, LayerShape] = {}
    reader = _Reader(graph)
    for node in graph.node:
        for key, shape in reader.layer(node):
            name = key if key not in found else node.input[1]
            if name in found:  # one weight, read twice: the first layer stands for it
                continue
            found[name] = shape if precision is None else replace(shape, precision=precision)
    return found


class _Reader:
    """Looks up shapes, constants and what comes next in one graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        from deploykit.bench.constants import of_initializer, of_value

        values = (*graph.input, *graph.value_info, *graph.output)
        self._tensors = {value.name: of_value(value) for value in values}
        self._constants = {t.name: of_initializer(t) for t in graph.initializer}
        self._origin = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants
        }
        self._next: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._next.setdefault(name, []).append(node)

    def layer(self, node: onnx.NodeProto) -> Iterator[tuple[str, LayerShape]]:
        """Name and shape of the layer, if the node is one."""
        from deploykit.bench.layers import attributes_of

        kind = _KINDS.get(node.op_type)
        if kind is None or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
            return
        weight = self._origin.get(node.input[1], node.input[1])
        tensor, data = self._constants.get(weight), self._shape(node.input[0])
        if tensor is None or tensor.shape is None or data is None:
            return
        sizes = tuple(size for size in tensor.shape if size is not None)
        given = attributes_of(node)
        shape = _shape(kind, sizes, data, given)
        if shape is None:
            return
        quantized = weight != node.input[1]
        half = tensor.dtype == 10  # FLOAT16 in onnx.TensorProto.DataType
        precision = "int8" if quantized else "float16" if half else "float32"
        bias, relu = self._tail(node)
        yield (
            _name(node, weight),
            replace(shape, bias=bias, relu=relu, precision=precision),
        )

    def _shape(self, name: str) -> tuple[int, ...] | None:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.shape is None:
            return None
        sizes = tuple(size for size in tensor.shape if size is not None)
        return sizes if len(sizes) == len(tensor.shape) else None

    def _tail(self, node: onnx.NodeProto) -> tuple[bool, bool]:
        """Whether a bias and a relu belong to it; a matmul's bias is an Add of its own."""
        bias = len(node.input) > 2 and bool(node.input[2])
        after = self._next.get(node.output[0], [])
        if node.op_type == "MatMul" and self._adds(after, constant=True):
            bias, after = True, self._next.get(after[0].output[0], [])
        if self._adds(after, constant=False):
            after = self._next.get(after[0].output[0], [])
            return bias, any(behind.op_type in _RELU for behind in after)
        return bias, len(after) == 1 and after[0].op_type in _RELU

    def _adds(self, after: list[onnx.NodeProto], *, constant: bool) -> bool:
        """Whether all that comes next is one addition, of a constant or of another activation."""
        if len(after) != 1 or after[0].op_type != "Add":
            return False
        return any(name in self._constants for name in after[0].input) == constant


def _name(node: onnx.NodeProto, weight: str) -> str:
    scope = next((p.value for p in node.metadata_props if p.key == _SCOPE), "")
    return f"{scope}.weight" if scope and not weight.startswith(f"{scope}.") else weight


def _shape(
    kind: str, weight: tuple[int, ...], data: tuple[int, ...], given: Attributes
) -> LayerShape | None:
    if kind == "gemm":
        if given.get("transA") or len(data) != 2:
            return None
        outputs, inputs = weight if given.get("transB") else weight[::-1]
        return LayerShape("gemm", inputs, outputs, data[0])
    if kind == "matmul":
        if len(weight) != 2 or len(data) < 2:
            return None
        return LayerShape("matmul", *weight, batch=data[0], spatial=data[1:-1])
    rank = len(data) - 2
    auto = given.get("auto_pad", "NOTSET")
    if rank < 1 or auto not in ("NOTSET", "VALID"):
        return None
    groups = _integer(given, "group", 1)
    first, second = weight[:2]
    transposed = kind == "conv_transpose"
    return LayerShape(
        kind=kind,
        inputs=first if transposed else second * groups,
        outputs=second * groups if transposed else first,
        batch=data[0],
        spatial=data[2:],
        kernel=weight[2:],
        stride=_integers(given, "strides", (1,) * rank),
        padding=_integers(given, "pads", (0,) * 2 * rank),
        dilation=_integers(given, "dilations", (1,) * rank),
        output_padding=_integers(given, "output_padding", (0,) * rank) if transposed else (),
        groups=groups,
    )


def _integer(given: Attributes, name: str, default: int) -> int:
    value = given.get(name, default)
    return value if isinstance(value, int) else default


def _integers(given: Attributes, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = given.get(name, default)
    return value if isinstance(value, tuple) else default


def measured_once(shapes: Mapping[str, LayerShape]) -> tuple[LayerShape, ...]:
    """The shapes of a network without repetition, in the order of first use."""
    return tuple(dict.fromkeys(shapes.values()))
