"""Raise a graph to the opset in which scales by channel exist, node by node.

onnx's converter takes a whole model, loses what its own graph cannot hold, does not go into
subgraphs, and stops at the first operator that it does not know. So each node is looked at alone:
one whose signature is the same in both opsets stays as it is, to the byte; any other goes through
the converter in a model of its own, and what comes back is checked and put in its place. Weights
stay out of it.

The signature says it all for opsets 7 to 13: where only the text of a schema changed, it allowed
more types or negative axes. Resize is the exception in the other direction: the converter leaves
out how coordinates were computed before opset 11, so that is set here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from deploykit.core.errors import BadInputError
from deploykit.quantize.graph.external import array_of
from deploykit.quantize.graph.values import attributes, bodies

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.graph.values import Graph

    Types: TypeAlias = dict[str, onnx.TypeProto]

OLDEST = 7
OPSET = 13
"""The first in which QuantizeLinear has one scale a channel; no higher, so that the fewest nodes
change. Files of this opset and above keep theirs."""

_RESIZE_CHANGED = 11  # from here on it says how it computes coordinates
_SCAN_CHANGED = 9  # Scan had a batch dimension before
_SAME = frozenset({"Constant", "If", "Loop", "Scan"})
"""Their signatures grew, and what they meant before they mean still."""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model imports.

    Raises:
        BadInputError: it imports none, or one that is too old or unknown to this onnx.
    """
    import onnx

    opset = next((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), 0)
    if not opset:
        raise BadInputError(
            "this network imports none of ONNX's own operators: there is nothing to quantize"
        )
    if opset < OLDEST:
        raise BadInputError(
            f"this network is of opset {opset}, and {OLDEST} is the oldest that can be quantized: "
            "export it again with a newer opset"
        )
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise BadInputError(
            f"this network is of opset {opset}, and onnx {onnx.__version__} knows up to {newest}: "
            "pip install --upgrade onnx onnxruntime"
        )
    return opset


def raise_opset(graph: Graph) -> int:
    """Bring a graph of opset 7 to 12 to opset 13; a newer one stays. Changes `graph`.

    Returns:
        The opset that it has now.

    Raises:
        BadInputError: an operator stands in the way; the line names it.
    """
    from onnx import helper

    old = opset_of(graph.frame)
    new = max(old, OPSET)
    for entry in graph.frame.opset_import:
        if entry.domain == "":
            entry.version = new
    least = helper.find_min_ir_version_for(graph.frame.opset_import, ignore_unknown=True)
    graph.frame.ir_version = max(graph.frame.ir_version, least)
    if new > old:
        types = _types(graph, old)
        raiser = _Raiser(graph, old, types)
        graph.replace_nodes([one for node in graph.nodes for one in raiser.raised(node)])
    return new


class _Raiser:
    """Converts nodes one by one."""

    def __init__(self, graph: Graph, old: int, types: Types) -> None:
        self._graph = graph
        self._old = old
        self._types = types
        self._known = graph.small()

    def raised(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What stands in place of a node in the newer opset."""
        if node.domain != "":
            return [node]
        for body in bodies(node):
            inner = [one for part in body.node for one in self.raised(part)]
            copies = [type(one).FromString(one.SerializeToString()) for one in inner]
            del body.node[:]
            body.node.extend(copies)
        if node.op_type == "Scan" and self._old < _SCAN_CHANGED:
            raise self._stands_in_the_way(node)
        if node.op_type in _SAME or signature(node, self._old) == signature(node, OPSET):
            return [node]
        return self._converted(node)

    def _converted(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        from onnx import checker, shape_inference, version_converter

        piece = self._piece(node)
        try:
            made = version_converter.convert_version(piece, OPSET)
            _restore_coordinates(made, node, self._old)
            _check(made)
        except (
            RuntimeError,
            version_converter.ConvertError,
            checker.ValidationError,
            shape_inference.InferenceError,
        ) as error:
            raise self._stands_in_the_way(node) from error
        names = [value.name for value in made.graph.output]
        if names != [name for name in node.output if name]:
            raise self._stands_in_the_way(node)
        return self._spliced(node, made)

    def _piece(self, node: onnx.NodeProto) -> onnx.ModelProto:
        """A model of this node alone: small constants by value, all else as inputs."""
        from onnx import helper

        def value(name: str) -> onnx.ValueInfoProto:
            if name in self._types:
                return helper.make_value_info(name, self._types[name])
            return helper.make_empty_tensor_value_info(name)

        names = [name for name in dict.fromkeys(node.input) if name]
        graph = helper.make_graph(
            [node],
            "one node",
            [value(name) for name in names if name not in self._known],
            [value(name) for name in node.output if name],
            [self._known[name] for name in names if name in self._known],
        )
        return helper.make_model(
            graph, ir_version=8, opset_imports=[helper.make_opsetid("", self._old)]
        )

    def _spliced(self, node: onnx.NodeProto, made: onnx.ModelProto) -> list[onnx.NodeProto]:
        """The converted nodes, with names for their inner values that are free in the graph."""
        outer = {name for name in (*node.input, *node.output) if name}
        inner: dict[str, str] = {"": ""}

        def renamed(name: str) -> str:
            if name in outer:
                return name
            if name not in inner:
                inner[name] = self._graph.free_name(f"{node.output[0]}_{name.strip('_')}")
            return inner[name]

        for tensor in made.graph.initializer:
            if tensor.name not in outer:
                name = renamed(tensor.name)
                self._graph.constants[name] = type(tensor).FromString(tensor.SerializeToString())
                self._graph.constants[name].name = name
        for one in made.graph.node:
            one.input[:] = [renamed(name) for name in one.input]
            one.output[:] = [renamed(name) for name in one.output]
            if one.op_type == node.op_type:
                one.name = node.name
        return list(made.graph.node)

    def _stands_in_the_way(self, node: onnx.NodeProto) -> BadInputError:
        return BadInputError(
            f"the network is of opset {self._old}, and node {node.name or node.output[0]!r} "
            f"({node.op_type}) cannot be raised to the {OPSET} that quantizers need: export it "
            f"again with opset {OPSET} or higher"
        )


def signature(node: onnx.NodeProto, opset: int) -> object:
    """What a node's inputs, outputs and attributes mean in an opset; `None` where it has none."""
    from onnx import defs

    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None
    settings = sorted(
        (name, str(one.type), one.required, one.default_value.SerializeToString())
        for name, one in schema.attributes.items()
    )
    inputs = [str(one.option) for one in schema.inputs]
    outputs = [str(one.option) for one in schema.outputs]
    return schema.deprecated, inputs, outputs, settings


def _restore_coordinates(made: onnx.ModelProto, node: onnx.NodeProto, old: int) -> None:
    """Write down what Upsample and the first Resize did without saying so.

    Both computed x_in = x_out / scale (today's "asymmetric") and took the pixel to the left; ONNX
    Runtime's Resize of opset 10 takes the one to the right where it makes the image smaller.
    """
    from onnx import helper

    if node.op_type not in {"Upsample", "Resize"} or old >= _RESIZE_CHANGED:
        return
    resize = next(one for one in made.graph.node if one.op_type == "Resize")
    values = {tensor.name: tensor for tensor in made.graph.initializer}
    values |= {
        one.output[0]: one.attribute[0].t for one in made.graph.node if one.op_type == "Constant"
    }
    nearest = "floor"
    if node.op_type == "Resize" and attributes(node).get("mode", b"nearest") == b"nearest":
        if resize.input[2] not in values:
            raise RuntimeError("whether it makes the image smaller is not known before it runs")
        scales = array_of(values[resize.input[2]], None).astype("float64")
        if (scales < 1).any():
            nearest = "ceil"
            if (scales > 1).any():
                raise RuntimeError("it makes one side smaller and another larger")
    settings = {
        "mode": attributes(resize).get("mode", b"nearest"),
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": nearest,
    }
    del resize.attribute[:]
    resize.attribute.extend(helper.make_attribute(name, one) for name, one in settings.items())


def _check(made: onnx.ModelProto) -> None:
    """Have onnx check nodes and types; what is not known of types (old operators) stays so."""
    from onnx import checker, shape_inference

    context = checker.C.CheckerContext()
    context.ir_version = made.ir_version
    context.opset_imports = {"": OPSET}
    for node in made.graph.node:
        checker.check_node(node, context)
    typed = [value for value in made.graph.input if value.type.WhichOneof("value")]
    if len(typed) == len(made.graph.input):
        shape_inference.infer_shapes(made, check_type=True, strict_mode=True)


def _types(graph: Graph, opset: int) -> Types:
    """What is known of the types of all values, in subgraphs too."""
    from onnx import shape_inference

    model = graph.with_stand_ins()
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = opset
    with suppress(shape_inference.InferenceError):  # then what is declared must do
        model = shape_inference.infer_shapes(model, data_prop=True)
    types: Types = {}
    graphs = [model.graph]
    while graphs:
        one = graphs.pop()
        values = (*one.input, *one.value_info, *one.output)
        types |= {value.name: value.type for value in values if value.HasField("type")}
        for tensor in one.initializer:
            types[tensor.name] = _tensor_type(tensor)
        graphs.extend(body for node in one.node for body in bodies(node))
    return types


def _tensor_type(tensor: onnx.TensorProto) -> onnx.TypeProto:
    from onnx import helper

    return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
