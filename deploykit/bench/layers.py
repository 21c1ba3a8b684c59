"""What an ONNX graph is made of: shapes, parameters, MACs and bytes, node by node.

The sizes come from onnx's shape inference with every dynamic dimension given a size; the bytes of
external weights are never read, so that many gigabytes are looked through as quickly as a few.

What counts as a parameter: the elements of float constants of one dimension or more, and of
quantized weights (integers of 8 bits or fewer, and the int32 biases that belong to them). Not
counted are the constants that nobody learnt: shapes and other integers, scalars, single numbers in
arithmetic, scales and zero points, limits, padding, and the running mean and variance of batch
normalisation (buffers in PyTorch as well). So a plain exported network has as many as
`sum(p.numel() for p in module.parameters())`. Where batch normalisation was folded into a
convolution, only what is left is counted, and of equal tensors that the exporter merged, one. A
table that PyTorch calls a buffer is counted: ONNX does not know the difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from deploykit.bench.constants import Tensor, learnt, of_constant, of_initializer, of_value
from deploykit.bench.folding import MOST_ELEMENTS, infer_folded
from deploykit.bench.macs import STANDARD_DOMAINS, Attributes, Shape, macs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx

    from deploykit.core.types import OnnxArtifact

_SIZE_TYPES = (6, 7)  # INT32 and INT64 in onnx.TensorProto.DataType


@dataclass(frozen=True, slots=True)
class Layer:
    """One node.

    Attributes:
        name: of the node, or its operator and number where it has none.
        op: its operator, with the domain before it where that is not the standard's.
        inputs: shape of each input, `None` where nothing is known of it.
        outputs: shape of each output, likewise.
        parameters: learnt numbers that this node is the first to read; see the module.
        macs: multiply-accumulates of one call, or `None` where they cannot be told.
        weight_bytes: of all constants that this node is the first to read.
        output_bytes: of all outputs together, or `None`.
        note: what to know about the figures, or "".
    """

    name: str
    op: str
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    parameters: int
    macs: int | None
    weight_bytes: int
    output_bytes: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """The layers together.

    Attributes:
        parameters: of all layers.
        macs: of all layers, or `None` where those of one cannot be told.
        weight_bytes: of all layers.
        least_macs: of the layers whose MACs are known.
        untold: names of the others.
    """

    parameters: int
    macs: int | None
    weight_bytes: int
    least_macs: int = 0
    untold: tuple[str, ...] = ()


def layers_of(
    artifact: OnnxArtifact, batch: int | None = None, sizes: Mapping[str, int] | None = None
) -> tuple[Layer, ...]:
    """The nodes of an artifact in the order of the graph; local functions are inlined.

    The nodes of a subgraph (`If`, `Loop`, `Scan`) follow the node they belong to and are counted
    once, whatever the number of rounds, with a note. Of an `If` whose condition follows from the
    sizes, only the branch that is taken is there; of any other, both are.

    Args:
        artifact: ours or a foreign one.
        batch: size of the first dynamic dimension.
        sizes: of dynamic dimensions by name; those not given take their smallest.

    Raises:
        BadInputError: not a readable ONNX file, or a size that the artifact does not allow.
    """
    model, folded = infer_folded(_sized(artifact, batch, sizes))
    return tuple(_layers(model.graph, _Scope(folded=folded), "", ""))


def sized_graph(
    artifact: OnnxArtifact, batch: int | None = None, sizes: Mapping[str, int] | None = None
) -> onnx.ModelProto:
    """The graph of an artifact with the shape of every value as far as it can be told.

    It is for looking at: large weights have lost their bytes, local functions are inlined. The
    arguments and errors are those of `layers_of`.
    """
    return infer_folded(_sized(artifact, batch, sizes))[0]


def _sized(
    artifact: OnnxArtifact, batch: int | None, sizes: Mapping[str, int] | None
) -> onnx.ModelProto:
    from deploykit.load.artifacts import read_graph
    from deploykit.load.synthetic import choose_sizes

    chosen = choose_sizes(artifact.inputs, batch, sizes)
    graph = _without_weights(read_graph(artifact.model_path))
    return _fix_sizes(_inlined(graph), artifact, chosen)


def totals(layers: Sequence[Layer]) -> Totals:
    """Add layers up."""
    known = [layer.macs for layer in layers if layer.macs is not None]
    untold = tuple(layer.name for layer in layers if layer.macs is None)
    return Totals(
        parameters=sum(layer.parameters for layer in layers),
        macs=None if untold else sum(known),
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        least_macs=sum(known),
        untold=untold,
    )


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model less the bytes of its weights; it is changed itself.

    Only their shapes and types are asked for, and each round of inference would copy them twice.
    Whole numbers stay: they may be the sizes that inference follows.
    """
    constants = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute]
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type not in _SIZE_TYPES and prod(tensor.dims) > MOST_ELEMENTS:
            for field_name in ("raw_data", "float_data", "double_data", "int32_data"):
                tensor.ClearField(field_name)
    return model


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    from onnx.inliner import inline_local_functions

    return inline_local_functions(model)


def _fix_sizes(
    model: onnx.ModelProto, artifact: OnnxArtifact, sizes: Mapping[str, int]
) -> onnx.ModelProto:
    """The model with a size in place of each dynamic dimension; it is changed itself."""
    by_name = {spec.name: spec for spec in artifact.inputs}
    for value in model.graph.input:
        if value.name in by_name:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, by_name[value.name].shape, strict=True):
                dim.dim_value = size if isinstance(size, int) else sizes[size.name]
    for value in (*model.graph.value_info, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    return model


@dataclass(slots=True)
class _Scope:
    """The values that a graph can see, and the constants that a node has read already.

    Values in `folded` are computed by nodes, although their numbers are known.
    """

    folded: frozenset[str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def inner(self, graph: onnx.GraphProto) -> _Scope:
        """This scope with the values of a graph: a subgraph sees those around it."""
        tensors = dict(self.tensors)
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensors[value.name] = of_value(value)
        for tensor in graph.initializer:
            made = tensor.name in self.folded
            tensors[tensor.name] = replace(of_initializer(tensor), constant=not made)
        for sparse in graph.sparse_initializer:
            tensors[sparse.values.name] = of_initializer(sparse.values)
        for node in graph.node:
            if node.op_type == "Constant":
                tensors[node.output[0]] = of_constant(node)
        return _Scope(self.folded, tensors, self.read)


def _layers(graph: onnx.GraphProto, outer: _Scope, prefix: str, note: str) -> Iterator[Layer]:
    scope = outer.inner(graph)
    for number, node in enumerate(graph.node):
        if node.op_type == "Constant":  # counted where it is read
            continue
        name = prefix + (node.name or f"{node.op_type}_{number}")
        yield _layer(node, scope, name, note)
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for body in graphs:
                inside = f"counted once, in {attribute.name} of {name}"
                yield from _layers(body, scope, f"{name}/", inside)


def _layer(node: onnx.NodeProto, scope: _Scope, name: str, note: str) -> Layer:
    none = Tensor(None, 0)
    left_out = Tensor((), 0)
    given = [scope.tensors.get(x, none) if x else left_out for x in node.input]
    made = [scope.tensors.get(x, none) for x in node.output if x]
    inputs = tuple(tensor.shape for tensor in given)
    outputs = tuple(tensor.shape for tensor in made)
    parameters = weight_bytes = 0
    for index, (key, tensor) in enumerate(zip(node.input, given, strict=True)):
        if tensor.constant and key not in scope.read:
            scope.read.add(key)
            weight_bytes += tensor.bytes or 0
            parameters += learnt(node.op_type, index, tensor)
    sizes = [tensor.bytes for tensor in made]
    return Layer(
        name=name,
        op=node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}",
        inputs=inputs,
        outputs=outputs,
        parameters=parameters,
        macs=macs_of(node.op_type, node.domain, inputs, outputs, attributes_of(node)),
        weight_bytes=weight_bytes,
        output_bytes=None if None in sizes else sum(size for size in sizes if size is not None),
        note=note,
    )


def attributes_of(node: onnx.NodeProto) -> Attributes:
    """Numbers, strings and lists of integers; tensors and graphs decide no MACs."""
    found: dict[str, int | float | str | tuple[int, ...]] = {}
    for attribute in node.attribute:
        if attribute.type == attribute.INT:
            found[attribute.name] = attribute.i
        elif attribute.type == attribute.STRING:
            found[attribute.name] = attribute.s.decode(errors="replace")
        elif attribute.type == attribute.INTS:
            found[attribute.name] = tuple(attribute.ints)
    return found
