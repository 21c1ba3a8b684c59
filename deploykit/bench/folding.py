"""Sizes that a graph computes: fold them, so that shape inference can go on behind them.

A graph may work out the sizes of a `Reshape` or `Pad` from the sizes of its inputs. Once those
are fixed, such a chain (`Shape`, `Gather`, `Mul`, `Concat` ...) holds plain numbers, which onnx's
own inference follows only part of the way. Here the small nodes of such chains are computed with
onnx's reference implementation, until nothing new is learnt.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray
    from onnx.reference import ReferenceEvaluator

MOST_ELEMENTS = 1024  # sizes are few; anything larger is data
_MOST_ROUNDS = 16
_ARITHMETIC = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand",
    "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min",
    "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceSum", "Reshape", "Round", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile",
    "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


def infer_folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Shape inference that goes on where sizes are computed.

    Args:
        model: with the sizes of its inputs fixed; it is not changed.

    Returns:
        The model with what could be inferred, and the names of the values that were folded: they
        are initializers of it now as well as outputs of their nodes.
    """
    from onnx.shape_inference import InferenceError, infer_shapes

    folded: set[str] = set()
    try:
        model = infer_shapes(model, data_prop=True)
        for _ in range(_MOST_ROUNDS):
            values = {} if _all_known(model.graph) else _fold(model, folded)
            _add(model.graph, values)
            folded |= set(values)
            if not _take_branches(model.graph) and not values:
                break
            model = infer_shapes(model, data_prop=True)
    except InferenceError:  # a node contradicts its schema: what is known so far must do
        pass
    return model, frozenset(folded)


def _take_branches(graph: onnx.GraphProto) -> bool:
    """Put the branch in place of each `If` whose condition is known; whether there was one."""
    from onnx import helper

    known = _constants(graph)
    any_taken = False
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "If" or node.input[0] not in known:
            nodes.append(node)
            continue
        any_taken = True
        taken = "then_branch" if known[node.input[0]].all() else "else_branch"
        branch = next(item.g for item in node.attribute if item.name == taken)
        graph.initializer.extend(branch.initializer)
        graph.value_info.extend(branch.value_info)
        nodes.extend(branch.node)
        nodes.extend(
            helper.make_node("Identity", [inner.name], [outer], name=f"{node.name}:{outer}")
            for inner, outer in zip(branch.output, node.output, strict=True)
            if outer
        )
    if not any_taken:
        return False
    # A copy first: the nodes of a branch belong to a node that is about to go.
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return True


def _all_known(graph: onnx.GraphProto) -> bool:
    declared = {value.name: value for value in (*graph.value_info, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    names = (name for node in graph.node for name in node.output if name)
    return all(
        name in constants or (name in declared and _sizes(declared[name]) is not None)
        for name in names
    )


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return tuple(dim.dim_value for dim in kind.shape.dim)


def _fold(model: onnx.ModelProto, folded: set[str]) -> dict[str, NDArray[np.generic]]:
    """Values of nodes that were not known before, in one walk through the graph."""
    known = _constants(model.graph)
    graph = model.graph
    shapes = {value.name: _sizes(value) for value in (*graph.input, *graph.value_info)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[str, NDArray[np.generic]] = {}
    for node in graph.node:
        if folded.issuperset(name for name in node.output if name):
            continue
        for name, value in _value(node, model, known, shapes).items():
            if value.size <= MOST_ELEMENTS:
                known[name] = found[name] = value
    return found


def _value(
    node: onnx.NodeProto,
    model: onnx.ModelProto,
    known: dict[str, NDArray[np.generic]],
    shapes: dict[str, tuple[int, ...] | None],
) -> dict[str, NDArray[np.generic]]:
    """What a node gives out, if that follows from what is known."""
    import numpy as np

    shape = shapes.get(node.input[0]) if node.input else None
    if node.op_type == "Shape" and shape is not None:
        ends = {item.name: item.i for item in node.attribute}
        part = shape[ends.get("start", 0) : ends.get("end", len(shape))]
        return {node.output[0]: np.array(part, np.int64)}
    if node.op_type == "Size" and shape is not None:
        return {node.output[0]: np.array(prod(shape), np.int64)}
    return evaluate(node, model, known)


def evaluate(
    node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    """What a node of plain arithmetic makes of known values.

    Args:
        node: of any type; only those that compute or arrange numbers are evaluated.
        model: that it is of, for its opsets.
        known: values by name.

    Returns:
        Its outputs by name, or none where an input is not known or the node is of another kind.
    """
    import numpy as np

    given = [name for name in node.input if name]
    if node.op_type not in _ARITHMETIC or not all(name in known for name in given):
        return {}
    try:
        values = _evaluator(node, model).run(None, {name: known[name] for name in given})
    except Exception:  # noqa: BLE001  (the reference raises anything; then it is just not known)
        return {}
    made = [name for name in node.output if name]
    return {name: np.asarray(value) for name, value in zip(made, values, strict=True)}


def _evaluator(node: onnx.NodeProto, model: onnx.ModelProto) -> ReferenceEvaluator:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    untyped = [helper.make_empty_tensor_value_info(name) for name in node.input if name]
    results = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "one node", untyped, results)
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import))


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """The small constants whose bytes are in the file itself."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for item in node.attribute if node.op_type == "Constant" else ():
            if item.name == "value":
                tensors[node.output[0]] = item.t
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if prod(tensor.dims) <= MOST_ELEMENTS and tensor.data_location != tensor.EXTERNAL
    }


def _add(graph: onnx.GraphProto, values: dict[str, NDArray[np.generic]]) -> None:
    from onnx import numpy_helper

    # What was inferred of them before may be less than what is known now.
    for place in reversed(range(len(graph.value_info))):
        if graph.value_info[place].name in values:
            del graph.value_info[place]
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in values.items())
