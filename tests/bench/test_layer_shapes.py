"""Layers of a graph: their names, what decides their latency, and what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bench import layer_shapes as module
from deploykit.bench.layer_shapes import LayerShape, layer_shapes, measured_once
from deploykit.core.errors import BadInputError
from deploykit.export.translate import SCOPE_KEY
from deploykit.load.artifacts import load_artifact

if TYPE_CHECKING:
    from pathlib import Path

CONV = LayerShape(
    "conv", 8, 6, 2, (5, 5), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), bias=False, relu=True
)

GROUPED = LayerShape("conv", 4, 4, 1, (5, 5), (1, 1), (1, 1), (0,) * 4, (1, 1), groups=2)


def _weight(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def _shapes(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    x: tuple[int | str, ...],
    precision: str | None = None,
) -> dict[str, LayerShape]:
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, folder / "m.onnx")
    return layer_shapes(load_artifact(folder / "m.onnx"), 2, precision)


def test_a_convolution_has_the_name_of_its_weight_and_all_that_decides_its_latency(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["h"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]

    found = _shapes(tmp_path, nodes, [_weight("a.weight", 6, 8, 3, 3)], ("N", 8, 5, 5))

    assert found == {"a.weight": CONV}


def test_a_relu_behind_a_residual_sum_is_fused_too(tmp_path: Path) -> None:
    """So the two convolutions of a residual block are one shape and are measured once."""
    nodes = [
        helper.make_node("Conv", ["x", "a", "c"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b", "c"], ["i"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["i", "x"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    weights = [_weight("a", 4, 4, 3, 3), _weight("b", 4, 4, 3, 3), _weight("c", 4)]

    found = _shapes(tmp_path, nodes, weights, ("N", 4, 5, 5))

    assert list(found) == ["a", "b"]
    assert found["a"].relu
    assert len(measured_once(found)) == 1


def test_a_weight_that_the_exporter_renamed_gets_its_name_back_from_the_module(
    tmp_path: Path,
) -> None:
    assert module._SCOPE == SCOPE_KEY
    product = helper.make_node("MatMul", ["x", "val_6"], ["h"])
    product.metadata_props.add(key=SCOPE_KEY, value="block.fc1")
    nodes = [
        product,
        helper.make_node("Add", ["h", "block.fc1.bias"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]

    found = _shapes(
        tmp_path, nodes, [_weight("val_6", 8, 16), _weight("block.fc1.bias", 16)], ("N", 7, 8)
    )

    expected = LayerShape("matmul", 8, 16, 2, (7,), bias=True, relu=True)
    assert found == {"block.fc1.weight": expected}


def test_gemms_transposed_depthwise_and_quantized_layers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dw"]),
        helper.make_node("Conv", ["x", "dw"], ["h"], group=4),
        helper.make_node(
            "ConvTranspose", ["h", "up"], ["i"], strides=[2, 2], output_padding=[1, 1]
        ),
        helper.make_node("ReduceMean", ["i"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "fc", "bias"], ["y"], transB=1),
    ]
    weights = [
        _weight("q", 8, 1, 1, 1, dtype=np.int8), _weight("scale"), _weight("zero", dtype=np.int8),
        _weight("up", 8, 3, 2, 2), _weight("fc", 5, 3), _weight("bias", 5),
    ]  # fmt: skip

    found = _shapes(tmp_path, nodes, weights, ("N", 4, 6, 6))

    assert list(found) == ["q", "up", "fc"]
    depthwise, up, fc = found.values()
    assert (depthwise.inputs, depthwise.outputs, depthwise.precision) == (4, 8, "int8")
    assert depthwise.depthwise
    assert (up.inputs, up.outputs, up.output_spatial) == (8, 3, (13, 13))
    assert (fc.inputs, fc.outputs, fc.bias) == (3, 5, True)


def test_all_layers_can_be_taken_at_the_precision_that_will_ship(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]

    found = _shapes(tmp_path, nodes, [_weight("w", 3, 4)], (2, 3), "int8")

    assert found["w"].precision == "int8"


def test_what_has_no_constant_weight_is_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]

    assert _shapes(tmp_path, nodes, [], (2, 3)) == {}


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs", "weight"),
    [(1, 3, 5, (5, 3, 3, 3)), (4, 4, 8, (8, 1, 3, 3)), (8, 4, 3, (3, 1, 3, 3))],
    ids=["plain", "grouped", "depthwise"],
)
def test_a_weight_shrinks_with_its_channels(
    groups: int, inputs: int, outputs: int, weight: tuple[int, ...]
) -> None:
    shape = LayerShape(
        "conv", 8, 6 if groups == 8 else 16, 1, (5, 5), (3, 3), (1, 1), (0,) * 4, (1, 1),
        groups=groups,
    )  # fmt: skip

    assert shape.weight_shape(inputs, outputs) == weight


def test_bad_layers_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"^a layer's kind is one of conv, .*not 'pool'$"):
        LayerShape("pool", 1, 1)
    with pytest.raises(BadInputError, match=r"float32, int8, float16, not 'int4'$"):
        LayerShape("gemm", 1, 1, precision="int4")
    with pytest.raises(
        BadInputError, match=r"^a conv of 2 groups cannot have 3 inputs and 4 outputs$"
    ):
        GROUPED.weight_shape(3, 4)
    with pytest.raises(BadInputError, match=r"2-D kernel needs 2 sizes, strides .* 4 paddings$"):
        LayerShape("conv", 4, 4, kernel=(1, 1))
