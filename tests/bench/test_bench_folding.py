"""Sizes that a graph computes, and branches whose condition follows from them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bench.folding import infer_folded

FLOAT = TensorProto.FLOAT


def _integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _model(
    nodes: list[onnx.NodeProto], shape: list[int], constants: list[onnx.TensorProto]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _shape(model: onnx.ModelProto, name: str) -> tuple[int, ...]:
    values = (*model.graph.value_info, *model.graph.output)
    value = next(value for value in values if value.name == name)
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _padded(shape: list[int]) -> onnx.ModelProto:
    """Pad by half the width, the way TorchScript writes it: mirrored, reversed, reshaped."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["w"]),
        helper.make_node("Div", ["w", "two"], ["half"]),
        helper.make_node("Concat", ["half", "half", "none", "none"], ["ends"], axis=0),
        helper.make_node("Reshape", ["ends", "square"], ["pairs"]),
        helper.make_node("Slice", ["pairs", "last", "far", "none", "back"], ["turned"]),
        helper.make_node("Transpose", ["turned"], ["across"], perm=[1, 0]),
        helper.make_node("Reshape", ["across", "last"], ["pads"]),
        helper.make_node("Pad", ["x", "pads"], ["y"]),
    ]
    constants = [
        _integers("one", 1), _integers("two", 2), _integers("none", 0), _integers("last", -1),
        _integers("far", -9), _integers("back", -1), _integers("square", 2, 2),
    ]  # fmt: skip
    return _model(nodes, shape, constants)


def test_a_chain_that_onnx_cannot_follow_is_computed() -> None:
    model = _padded([1, 8])
    assert _shape(onnx.shape_inference.infer_shapes(model, data_prop=True), "y") != (1, 16)

    inferred, folded = infer_folded(model)

    assert _shape(inferred, "y") == (1, 16)
    assert {"s", "half", "pads"} <= folded
    assert "y" not in folded


def test_the_model_that_came_in_is_not_changed() -> None:
    model = _padded([1, 8])
    before = model.SerializeToString()

    infer_folded(model)

    assert model.SerializeToString() == before


def test_data_is_never_computed() -> None:
    model = _model(
        [helper.make_node("Mul", ["w", "w"], ["y"])], [1], [_integers("w", *range(2000))]
    )

    assert infer_folded(model)[1] == frozenset()


@pytest.mark.parametrize(("width", "op", "sizes"), [(8, "Relu", (1, 8)), (9, "Transpose", (9, 1))])
def test_only_the_branch_that_is_taken_is_left(width: int, op: str, sizes: tuple[int, int]) -> None:
    then = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["a"], name="then")], "then", [],
        [helper.make_tensor_value_info("a", FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Transpose", ["x"], ["b"], name="else")], "else", [],
        [helper.make_tensor_value_info("b", FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Size", ["x"], ["n"]),
        helper.make_node("Equal", ["n", "eight"], ["is_eight"]),
        helper.make_node("If", ["is_eight"], ["y"], name="if", then_branch=then, else_branch=other),
    ]
    eight = numpy_helper.from_array(np.array(8), "eight")

    inferred, _ = infer_folded(_model(nodes, [1, width], [eight]))

    assert [node.op_type for node in inferred.graph.node] == ["Size", "Equal", op, "Identity"]
    assert _shape(inferred, "y") == sizes


def test_a_node_that_contradicts_itself_ends_the_inference_quietly() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Reshape", ["s", "three"], ["bad"]),
        helper.make_node("Reshape", ["x", "bad"], ["y"]),
    ]

    _, folded = infer_folded(_model(nodes, [1, 8], [_integers("three", 3)]))

    assert folded == frozenset({"s"})


def test_a_node_that_leaves_an_output_out_is_folded_once() -> None:
    """Otherwise each round would add its value again, and the graph have two of one name."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Split", ["s"], ["first", ""], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["h"]),
        helper.make_node("Reshape", ["h", "first"], ["y"]),
    ]
    model, folded = infer_folded(_model(nodes, [4, 1], [_integers("pads", 0, 0, 0, 0)]))

    assert "first" in folded
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(names) == len(set(names))
