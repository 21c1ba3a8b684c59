"""Layers as matrices by group, whatever their operator: what adjusts weights sees one form.

A weight in this form is [groups, out / groups, in / groups, positions]. Convolutions have their
kernel's positions last; products of matrices have one group and one position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.graph.values import attributes
from deploykit.quantize.prepare.layer_weights import CONVOLUTIONS, all_float32, weight_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.graph.values import Graph

OPERATORS = CONVOLUTIONS | {"Gemm", "MatMul"}
_BIAS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How an operator's weight becomes [groups, out / groups, in / groups, positions].

    Attributes:
        op: the operator.
        shape: of the weight.
        groups: of a convolution; 1 otherwise.
        transposed: of Gemm: whether its weight is [out, in].
    """

    op: str
    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    def split(self, weight: NDArray[np.generic]) -> NDArray[np.generic]:
        """A weight by group."""
        if self.op == "Conv":
            per_group = self.shape[0] // self.groups
            return weight.reshape(self.groups, per_group, self.shape[1], -1)
        if self.op == "ConvTranspose":
            per_group = self.shape[0] // self.groups
            found = weight.reshape(self.groups, per_group, self.shape[1], -1)
            return found.swapaxes(1, 2)
        return (weight if self.transposed else weight.T)[None, :, :, None]

    def join(self, split: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of `split`."""
        if self.op == "Conv":
            return split.reshape(self.shape)
        if self.op == "ConvTranspose":
            return split.swapaxes(1, 2).reshape(self.shape)
        matrix = split[0, :, :, 0]
        return matrix if self.transposed else matrix.T


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A node that is linear in its input, with constants that nobody else reads.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        form: of its weight.
        weight: name of the constant.
        bias: name of the constant, or "".
    """

    node: onnx.NodeProto
    form: Form
    weight: str
    bias: str

    @property
    def takes_bias(self) -> bool:
        """Whether the operator has an input for a bias."""
        return bool(self.node.op_type != "MatMul")

    @property
    def is_padded(self) -> bool:
        """Whether it may meet zeros that are not in its input, or leave parts of it out."""
        if self.node.op_type == "ConvTranspose":
            return True
        given = attributes(self.node)
        pads = given.get("pads", [])
        assert isinstance(pads, list | tuple)
        return any(pads) or given.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}


def form_of(node: onnx.NodeProto, shape: tuple[int, ...]) -> Form:
    """How the weight of a node, of this shape, becomes a matrix by group."""
    given = attributes(node)
    groups = given.get("group", 1)
    assert isinstance(groups, int)
    return Form(node.op_type, shape, groups, bool(given.get("transB", 0)))


def layer_of(node: onnx.NodeProto, graph: Graph) -> Layer | None:
    """A node as a layer whose weight may be changed; `None` where it is none.

    A weight that several nodes read is theirs together, and stays what it is.
    """
    if node.op_type not in OPERATORS or node.domain != "" or node.input[0] in graph.constants:
        return None
    weight = weight_of(node, graph)
    if weight is None or len(graph.readers(weight)) > 1 or weight in graph.kept:
        return None
    given = attributes(node)
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return None
    shape = tuple(int(size) for size in graph.constants[weight].dims)
    form = form_of(node, shape)
    bias = node.input[_BIAS] if len(node.input) > _BIAS else ""
    if bias:
        if not all_float32([bias], graph):
            return None
        dims = [int(size) for size in graph.constants[bias].dims]
        if dims[-1:] != [channels_out(form)] or any(size != 1 for size in dims[:-1]):
            return None
    return Layer(node, form, weight, bias)


def channels_out(form: Form) -> int:
    """Output channels of a layer."""
    if form.op == "Conv":
        return form.shape[0]
    if form.op == "ConvTranspose":
        return form.shape[1] * form.groups
    return form.shape[0] if form.transposed else form.shape[1]


def channels_in(form: Form) -> int:
    """Input channels of a layer."""
    if form.op == "Conv":
        return form.shape[1] * form.groups
    if form.op == "ConvTranspose":
        return form.shape[0]
    return form.shape[1] if form.transposed else form.shape[0]


def outer(
    form: Form, over_out: NDArray[np.float64], over_in: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Factors of a split weight, without positions: one by output channel times one by input.

    Args:
        form: of the layer.
        over_out: [out].
        over_in: [in].
    """
    rows, columns = over_out.reshape(form.groups, -1, 1), over_in.reshape(form.groups, 1, -1)
    return np.asarray(rows * columns)


def rescaled(
    form: Form,
    weight: NDArray[np.generic],
    over_out: NDArray[np.float64],
    over_in: NDArray[np.float64],
) -> NDArray[np.float32]:
    """A weight with its output and its input channels scaled."""
    split = form.split(weight).astype(np.float64) * outer(form, over_out, over_in)[..., None]
    return np.ascontiguousarray(form.join(split), np.float32)


def floats_of(graph: Graph, name: str) -> NDArray[np.float64]:
    """A constant in float64: factors are put together before anything is rounded."""
    return graph.array(name).astype(np.float64)


def write_constant(
    graph: Graph, node: onnx.NodeProto, position: int, value: NDArray[np.generic], name: str
) -> str:
    """Have a node read another constant; what others read stays. Changes `graph`.

    Args:
        graph: of the node.
        node: that reads it.
        position: of the input; one more than there are adds it.
        value: new.
        name: of the constant where it has to have a new one.

    Returns:
        The name that it has.
    """
    from onnx import numpy_helper

    inputs = list(node.input) + [""] * (position + 1 - len(node.input))
    old = str(inputs[position])
    if old and len(graph.readers(old)) == 1 and old not in graph.kept:
        graph.constants[old] = numpy_helper.from_array(value, old)
        return old
    new = graph.add_constant(name, value)
    inputs[position] = new
    graph.set_inputs(node, inputs)
    return new
