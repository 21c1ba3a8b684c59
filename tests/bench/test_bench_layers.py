"""Parameters, MACs, bytes and shapes of ONNX graphs, against formulas and against PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bench import layers
from deploykit.bench.layers import Layer, layers_of, totals
from deploykit.core.errors import BadInputError
from deploykit.load.artifacts import load_artifact

if TYPE_CHECKING:
    from pathlib import Path

FLOAT, INT8, INT32, INT64 = (
    TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64,
)  # fmt: skip


def _weights(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def _integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _value(name: str, *shape: int | str, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
    opset: int = 17,
    ir_version: int = 8,
    functions: list[onnx.FunctionProto] | None = None,
    domains: tuple[str, ...] = (),
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(
        graph,
        ir_version=ir_version,
        opset_imports=[
            helper.make_opsetid("", opset),
            *(helper.make_opsetid(domain, 1) for domain in domains),
        ],
        functions=functions,
    )
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def _layers(path: Path, batch: int | None = None) -> tuple[Layer, ...]:
    return layers_of(load_artifact(path), batch)


@pytest.fixture
def small_net(tmp_path: Path) -> Path:
    """Conv (grouped) -> BatchNormalization -> Relu -> Flatten -> Gemm, for any batch."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", group=2, pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"], name="bn"),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "k", "d"], ["y"], name="fc", transB=1),
    ]
    constants = [
        _weights("w", 6, 2, 3, 3),
        _weights("b", 6),
        *(_weights(name, 6) for name in "stmv"),
        _integers("shape", 0, -1),
        _weights("k", 10, 6 * 8 * 8),
        _weights("d", 10),
    ]
    return _save(tmp_path, nodes, [_value("x", "N", 4, 8, 8)], [_value("y", "N", 10)], constants)


def test_a_small_net_by_hand(small_net: Path) -> None:
    conv, bn, relu, flat, fc = _layers(small_net, batch=3)

    assert conv.outputs == ((3, 6, 8, 8),)
    assert conv.macs == 3 * 6 * 8 * 8 * (2 * 3 * 3)
    assert conv.parameters == 6 * 2 * 3 * 3 + 6
    assert conv.weight_bytes == 4 * conv.parameters
    assert conv.output_bytes == 4 * 3 * 6 * 8 * 8
    # The running mean and variance were not learnt, but they are bytes of the file.
    assert (bn.parameters, bn.weight_bytes, bn.macs) == (12, 4 * 24, 0)
    assert (relu.name, relu.parameters, relu.macs) == ("Relu_2", 0, 0)
    assert (flat.parameters, flat.weight_bytes, flat.outputs) == (0, 16, ((3, 384),))
    assert (fc.macs, fc.parameters) == (3 * 384 * 10, 384 * 10 + 10)
    assert totals((conv, bn, relu, flat, fc)).macs == 3 * (6912 + 3840)


def test_without_a_batch_the_smallest_is_taken(small_net: Path) -> None:
    assert _layers(small_net)[0].outputs == ((1, 6, 8, 8),)


def test_a_batch_that_is_fixed_otherwise_is_refused(tmp_path: Path) -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    path = _save(tmp_path, relu, [_value("x", 2, 3)], [_value("y", 2, 3)], [])

    with pytest.raises(BadInputError, match="fixed at 2: batch 5 cannot be run"):
        _layers(path, batch=5)


def test_an_old_file_lists_its_weights_as_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    inputs = [_value("x", 1, 4), _value("w", 4, 5)]
    path = _save(
        tmp_path, nodes, inputs, [_value("y", 1, 5)], [_weights("w", 4, 5)], opset=7, ir_version=3
    )

    (layer,) = _layers(path)

    assert (layer.parameters, layer.macs) == (20, 20)


def test_weights_in_constant_nodes_count_and_shared_ones_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=_weights("w", 4, 4)),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Mul", ["b", "half"], ["y"]),
    ]
    path = _save(tmp_path, nodes, [_value("x", 1, 4)], [_value("y", 1, 4)], [])

    layers = _layers(path)

    assert [layer.op for layer in layers] == ["MatMul", "MatMul", "Mul"]
    assert [layer.parameters for layer in layers] == [16, 0, 0]
    assert [layer.macs for layer in layers] == [16, 16, 0]
    assert [layer.weight_bytes for layer in layers] == [64, 0, 0]


def test_single_numbers_in_arithmetic_are_not_learnt(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["h"]),
        helper.make_node("PRelu", ["h", "slope"], ["y"]),
    ]
    constants = [_weights("half", 1), _weights("slope", 1)]
    path = _save(tmp_path, nodes, [_value("x", 1, 4)], [_value("y", 1, 4)], constants)

    assert [layer.parameters for layer in _layers(path)] == [0, 1]


def test_weights_are_counted_without_their_bytes() -> None:
    """Inference would copy them; integers stay, since sizes are computed from them."""
    floats = numpy_helper.from_array(np.ones(2000, np.float32), "w")
    sizes = numpy_helper.from_array(np.ones(2000, np.int64), "s")
    node = helper.make_node("Constant", [], ["c"], value=floats)
    graph = helper.make_graph([node], "g", [], [], [floats, sizes])
    thin = layers._without_weights(helper.make_model(graph))

    assert [len(tensor.raw_data) for tensor in thin.graph.initializer] == [0, 16_000]
    assert list(thin.graph.node[0].attribute[0].t.dims) == [2000]
    assert not thin.graph.node[0].attribute[0].t.raw_data


def test_external_weights_are_counted_and_not_read(tmp_path: Path) -> None:
    path = _save(
        tmp_path,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [_value("x", 1, 64)],
        [_value("y", 1, 32)],
        [_weights("w", 64, 32)],
    )
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    artifact = load_artifact(path)
    (tmp_path / "w.bin").unlink()

    (layer,) = layers_of(artifact)

    assert (layer.parameters, layer.weight_bytes) == (2048, 8192)


def test_quantized_weights_count_and_their_scales_do_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], name="dq", axis=0),
        helper.make_node("DequantizeLinear", ["qb", "s", "zb"], ["b"], name="dqb", axis=0),
        helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv"),
    ]
    constants = [
        _weights("q", 8, 3, 3, 3, dtype=np.int8),
        _weights("qb", 8, dtype=np.int32),
        _weights("s", 8),
        _weights("z", 8, dtype=np.int8),
        _weights("zb", 8, dtype=np.int32),
    ]
    path = _save(tmp_path, nodes, [_value("x", 1, 3, 5, 5)], [_value("y", 1, 8, 3, 3)], constants)

    weights, biases, conv = _layers(path)

    assert weights.parameters == 8 * 27
    assert weights.weight_bytes == 8 * 27 + 8 * 4 + 8
    assert biases.parameters == 8
    assert (conv.parameters, conv.macs) == (0, 8 * 9 * 27)


def test_four_bit_weights_are_packed(tmp_path: Path) -> None:
    packed = helper.make_tensor("q", TensorProto.INT4, [3, 5], np.ones(15, np.int8).tolist())
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    path = _save(
        tmp_path, nodes, [_value("x", 1, 3)], [_value("y", 1, 5)], [packed, scale],
        opset=21, ir_version=10,
    )  # fmt: skip

    layer = _layers(path)[0]

    assert (layer.parameters, layer.weight_bytes) == (15, 8 + 4)


def test_the_body_of_a_loop_is_counted_once_with_a_note(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["h2"], name="step"),
            helper.make_node("Identity", ["go"], ["go2"]),
        ],
        "body",
        [
            _value("i", dtype=INT64),
            _value("go", dtype=TensorProto.BOOL),
            _value("h", 1, 4),
        ],
        [_value("go2", dtype=TensorProto.BOOL), _value("h2", 1, 4)],
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    nodes = [helper.make_node("Loop", ["n", "yes", "x"], ["y"], name="loop", body=body)]
    constants = [numpy_helper.from_array(np.array(7), "n"), yes, _weights("w", 4, 4)]
    path = _save(tmp_path, nodes, [_value("x", 1, 4)], [_value("y", 1, 4)], constants)

    loop, step, _ = _layers(path)

    assert (loop.op, loop.macs, loop.note) == ("Loop", 0, "")
    assert step.name == "loop/step"
    assert (step.macs, step.parameters) == (16, 16)
    assert step.note == "counted once, in body of loop"


def test_functions_of_the_file_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "ours",
        "Twice",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["h"]), helper.make_node("Relu", ["h"], ["c"])],
        [helper.make_opsetid("", 17)],
    )
    path = _save(
        tmp_path,
        [helper.make_node("Twice", ["x", "w"], ["y"], domain="ours")],
        [_value("x", 2, 4)],
        [_value("y", 2, 3)],
        [_weights("w", 4, 3)],
        functions=[function],
        domains=("ours",),
    )

    layers = _layers(path)

    assert [layer.op for layer in layers] == ["MatMul", "Relu"]
    assert layers[0].macs == 24


def test_an_operator_that_nobody_knows_is_named_and_not_guessed(tmp_path: Path) -> None:
    path = _save(
        tmp_path,
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="known"),
            helper.make_node("Magic", ["h"], ["y"], domain="acme", name="strange"),
        ],
        [_value("x", 1, 4)],
        [_value("y", 1, 4)],
        [_weights("w", 4, 4)],
        domains=("acme",),
    )

    layers = _layers(path)
    found = totals(layers)

    assert layers[1].op == "acme.Magic"
    assert layers[1].macs is None
    assert (found.macs, found.least_macs, found.untold) == (None, 16, ("strange",))


@pytest.mark.slow
def test_a_plain_exported_net_agrees_with_pytorch(tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.PReLU(8),
        torch.nn.Conv2d(8, 8, 3, groups=8, stride=2),
        torch.nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2),
        torch.nn.LayerNorm(14),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 14 * 14, 10),
    ).eval()
    x = torch.zeros(2, 3, 16, 16)
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (x,), path, dynamo=True, external_data=False, verbose=False)
    with FlopCounterMode(display=False) as counter:
        net(x)

    found = totals(_layers(path))

    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert found.macs == counter.get_total_flops() // 2
