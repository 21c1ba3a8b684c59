"""What does not depend on the inputs becomes an initializer, and what does nothing goes.

Weights have to be initializers to be quantized; exporters also give them as Constant nodes, behind
Identity, or behind arithmetic that was left for the runtime (a transposed weight).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from deploykit.bench.folding import MOST_ELEMENTS, evaluate, infer_folded
from deploykit.quantize.graph.values import attributes
from deploykit.quantize.prepare.refusals import LAYERS

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from deploykit.quantize.graph.values import Graph

_BY_TYPE = {"value_float": "float32", "value_floats": "float32",
            "value_int": "int64", "value_ints": "int64"}  # fmt: skip

_MOST_FILLED = 1 << 28
"""Elements of all weights together that a file only gives the shape of; VGG-19 has 1.4e8."""


def lift_constants(graph: Graph) -> None:
    """Turn Constant nodes into initializers of the same name. Changes `graph`."""
    from onnx import numpy_helper

    outputs = {value.name for value in graph.frame.graph.output}
    for node in [one for one in graph.nodes if one.op_type == "Constant" and one.domain == ""]:
        if node.output[0] in outputs or len(node.attribute) != 1:
            continue
        import numpy as np

        name, item = node.output[0], node.attribute[0]
        if item.name == "value":
            tensor = type(item.t)()
            tensor.CopyFrom(item.t)
            tensor.name = name
        elif item.name in _BY_TYPE:
            value = np.array(attributes(node)[item.name], _BY_TYPE[item.name])
            tensor = numpy_helper.from_array(value, name)
        else:  # strings and sparse tensors are nothing to quantize
            continue
        graph.drop(node)
        graph.constants[name] = tensor


def fold_constants(graph: Graph) -> None:
    """Compute what is constant, take the branches that are certain. Changes `graph`.

    Sizes that follow from the shapes of inputs count as constant where those are fixed.
    """
    _fold_small(graph)
    _fold_weights(graph)
    drop_dead(graph)


def drop_identities(graph: Graph) -> None:
    """Take out Identity, and Dropout as it is at inference. Changes `graph`.

    Inputs and outputs of the graph, and what subgraphs read, keep their names; where that leaves no
    way, the node stays.
    """
    for node in list(graph.nodes):
        if not _does_nothing(node, graph):
            continue
        source, result = node.input[0], node.output[0]
        producer = graph.producer(source)
        if result not in graph.kept:
            graph.drop(node)
            graph.read_instead(result, source)
        elif producer is not None and source not in graph.kept:
            graph.drop(node)
            graph.rename_output(producer, source, result)
            graph.read_instead(source, result)


def drop_dead(graph: Graph) -> None:
    """Take out nodes of ONNX's own that make nothing anybody reads, and constants likewise."""
    kept = graph.kept
    for node in reversed(list(graph.nodes)):
        made = [name for name in node.output if name]
        if node.domain == "" and not any(graph.readers(name) or name in kept for name in made):
            graph.drop(node)
    for name in [one for one in graph.constants if one not in kept and not graph.readers(one)]:
        del graph.constants[name]


def _fold_small(graph: Graph) -> None:
    from onnx import numpy_helper

    model, folded = infer_folded(graph.with_stand_ins())
    made = [name for node in model.graph.node for name in node.output if name]
    if len(made) != len(set(made)):  # two branches that were taken have names in common
        return
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in graph.frame.graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        names = {name for name in node.output if name}
        if not names or not names <= folded or names & outputs:
            nodes.append(node)
            continue
        for name in names:
            graph.constants[name] = numpy_helper.from_array(
                numpy_helper.to_array(values[name]), name
            )
    for name, tensor in values.items():  # those of branches that were taken
        if name not in folded:
            graph.constants.setdefault(name, tensor)
    graph.replace_nodes(nodes)
    del graph.frame.graph.value_info[:]
    graph.frame.graph.value_info.extend(model.graph.value_info)


def _fold_weights(graph: Graph) -> None:
    """Fold arithmetic on larger constants, as long as the file does not grow by it.

    Weights may: some benchmarks' files have ConstantOfShape in their place, and so stay small.
    """
    room = _MOST_FILLED
    for node in list(graph.nodes):
        given = [name for name in node.input if name]
        if not given or node.domain != "" or not all(name in graph.constants for name in given):
            continue
        if graph.kept & set(node.output):
            continue
        values = {name: graph.array(name) for name in given}
        most = max(MOST_ELEMENTS, sum(value.size for value in values.values()))
        elements = _result_elements(node, values)
        if _is_filled_weight(node, graph) and most < elements <= room:
            room -= elements
            most = elements
        if elements > most:
            continue
        results = evaluate(node, graph.frame, values)
        if not results or sum(value.size for value in results.values()) > most:
            continue
        graph.drop(node)
        for name, value in results.items():
            _set_constant(graph, name, value)


def _set_constant(graph: Graph, name: str, value: NDArray[np.generic]) -> None:
    from onnx import numpy_helper

    graph.constants[name] = numpy_helper.from_array(value, name)


def _result_elements(node: onnx.NodeProto, values: dict[str, NDArray[np.generic]]) -> int:
    """How large the result of those that make much of little will be; 0 for all others."""
    if node.op_type in {"ConstantOfShape", "Expand"}:
        return prod(int(size) for size in values[node.input[-1]].reshape(-1))
    if node.op_type == "Tile":
        repeats = prod(int(size) for size in values[node.input[1]].reshape(-1))
        return values[node.input[0]].size * repeats
    if node.op_type == "Range":
        start, limit, step = (float(values[name].reshape(())) for name in node.input)
        return int(abs((limit - start) / step)) if step else 0
    return 0


def _is_filled_weight(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether it makes a layer's weight out of a shape."""
    name = node.output[0]
    return node.op_type == "ConstantOfShape" and any(
        reader.op_type in LAYERS and name in list(reader.input)[1:]
        for reader in graph.readers(name)
    )


def _does_nothing(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.domain != "":
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type != "Dropout" or any(graph.readers(name) for name in node.output[1:]):
        return False
    if graph.kept & set(node.output[1:]):
        return False
    training = node.input[2] if len(node.input) > 2 else ""
    return not training or (training in graph.constants and not graph.array(training).any())
