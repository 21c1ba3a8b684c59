"""Quantizers where they belong: right numbers, and integer kernels in the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.quantize.graph.wiring import Wiring
from deploykit.quantize.options import TARGETS
from deploykit.quantize.place.decide import decide
from deploykit.quantize.place.emit import emit
from deploykit.quantize.place.targets import ORT_CPU, PLACEMENTS, TENSORRT, Role, placement_named
from deploykit.quantize.ranges import Range

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from deploykit.quantize.place.targets import Placement

RNG = np.random.default_rng(0)
PRODUCTS = {"Conv": "QLinearConv", "Gemm": "QGemm", "MatMul": "QLinearMatMul"}


def weights(*shape: int) -> NDArray[Any]:
    values: NDArray[Any] = RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return values.astype(np.float32)


class Net:
    """A graph that is written down line by line."""

    def __init__(self, **inputs: tuple[int, ...]) -> None:
        self.inputs = inputs
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def __call__(
        self, op: str, *inputs: object, to: str, outputs: int = 1, **attributes: Any
    ) -> str:
        names = []
        for position, one in enumerate(inputs):
            if not isinstance(one, str):
                name = f"{to}.{position}"
                self.constants[name] = np.asarray(one)
                names.append(name)
            else:
                names.append(one)
        made = [to, *(f"{to}_{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, names, made, f"node_{to}", **attributes))
        return to

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [
                helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
                for n, s in self.inputs.items()
            ],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            [numpy_helper.from_array(v, n) for n, v in self.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(made)

    def feeds(self) -> dict[str, NDArray[Any]]:
        return {n: RNG.normal(size=s).astype(np.float32) for n, s in self.inputs.items()}


def run(model: onnx.ModelProto, feeds: dict[str, Any], *more: str) -> dict[str, NDArray[Any]]:
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(helper.make_value_info(name, onnx.TypeProto()) for name in more)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def ranges_of(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Range]:
    outputs = {value.name for value in model.graph.output}
    names = [o for node in model.graph.node for o in node.output if o not in outputs]
    values = {**feeds, **run(model, feeds, *names)}
    return {
        name: Range(name, float(value.min()), float(value.max()))
        for name, value in values.items()
        if value.dtype == np.float32 and value.size
    }


def quantized(model: onnx.ModelProto, feeds: dict[str, Any], target: Placement) -> onnx.ModelProto:
    before = model.SerializeToString()
    ranges = ranges_of(model, feeds)
    made = emit(model, target, decide(Wiring.of(model), target, ranges), ranges)
    assert model.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    assert [o.name for o in made.graph.output] == [o.name for o in model.graph.output]
    return made


def optimised(model: onnx.ModelProto, folder: Path) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def small_net() -> Net:
    net = Net(x=(2, 3, 12, 12))
    net("Conv", "x", weights(8, 3, 3, 3), weights(8), to="a", pads=[1, 1, 1, 1])
    net("Relu", "a", to="b")
    net("Conv", "b", weights(8, 1, 3, 3), weights(8), to="c", group=8, pads=[1, 1, 1, 1])
    net("Clip", "c", np.float32(0), np.float32(6), to="d")
    net("Conv", "d", weights(8, 8, 1, 1), to="e")
    net("Add", "e", "b", to="f")
    net("Relu", "f", to="g")
    net("MaxPool", "g", to="h", kernel_shape=[2, 2], strides=[2, 2])
    net("GlobalAveragePool", "h", to="i")
    net("Flatten", "i", to="j")
    net("Gemm", "j", weights(5, 8), weights(5), to="y", transB=1)
    return net


@pytest.mark.parametrize("target", PLACEMENTS, ids=lambda one: one.name)
def test_a_network_of_many_kinds_is_near_its_float_parent(target: Placement) -> None:
    net = small_net()
    model, feeds = net.model("y"), net.feeds()

    found = run(quantized(model, feeds, target), feeds)["y"]
    expected = run(model, feeds)["y"]

    signal = np.square(expected).mean() / np.square(found - expected).mean()
    assert 10 * np.log10(signal) > 25  # dB
    assert signal < 1e6  # it is quantized


def test_onnx_runtime_makes_integers_of_all_of_it(tmp_path: Path) -> None:
    net = small_net()
    made = quantized(net.model("y"), net.feeds(), ORT_CPU)

    left = [op for op in optimised(made, tmp_path) if op != "Transpose"]

    assert left == [
        "QuantizeLinear", "QLinearConv", "QLinearConv", "QLinearConv", "QLinearAdd", "NhwcMaxPool",
        "QLinearGlobalAveragePool", "Flatten", "QGemm",
    ]  # fmt: skip


def one_node(op: str) -> Net:
    """A node between two convolutions, so that quantizing it is worth while."""
    net = Net(x=(1, 8, 6, 6))
    net("Conv", "x", weights(8, 8, 1, 1), to="a")
    match op:
        case "Add" | "Mul" | "Concat":
            net("Conv", "x", weights(8, 8, 1, 1), to="b")
            net(op, "a", "b", to="c", **({"axis": 1} if op == "Concat" else {}))
        case "MaxPool" | "AveragePool":
            net(op, "a", to="c", kernel_shape=[2, 2])
        case "Reshape":
            net(op, "a", np.array([1, 8, 4, 9]), to="c")
        case "Expand":
            net(op, "a", np.array([2, 8, 6, 6]), to="c")
        case "Tile":
            net(op, "a", np.array([1, 1, 2, 1]), to="c")
        case "Slice":
            net(op, "a", np.array([0]), np.array([3]), np.array([2]), to="c")
        case "Gather":
            net(op, "a", np.array([0, 2]), to="c", axis=2)
        case "Split":
            net(op, "a", np.array([4, 4]), to="s", outputs=2, axis=1)
            net("Add", "s", "s_1", to="c")
        case "Resize":
            scales = np.array([1, 1, 2, 2], np.float32)
            net(op, "a", "", scales, to="c", mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric")  # fmt: skip
        case "Where":
            net("Conv", "x", weights(8, 8, 1, 1), to="b")
            net(op, np.arange(6) < 3, "a", "b", to="c")
        case "DepthToSpace":
            net(op, "a", to="c", blocksize=2)
        case "Squeeze" | "Unsqueeze":
            net("Unsqueeze", "a", np.array([0]), to="u")
            net("Squeeze", "u", np.array([0]), to="c")
        case "Flatten":
            net(op, "a", to="c", axis=1)
        case _:
            net(op, "a", to="c")
    channels = {"Concat": 16, "DepthToSpace": 2, "Transpose": 6, "Split": 4}.get(op, 8)
    if op == "Flatten":
        net("Gemm", "c", weights(288, 3), to="y")
    else:
        net("Conv", "c", weights(4, channels, 1, 1), to="y")
    return net


@pytest.mark.parametrize(
    "op", [op for op, rule in ORT_CPU.rules.items() if rule.role is not Role.COMPUTES]
)
def test_the_table_says_what_onnx_runtime_does(op: str, tmp_path: Path) -> None:
    net = one_node(op)
    made = quantized(net.model("y"), net.feeds(), ORT_CPU)

    left = optimised(made, tmp_path)

    # Nothing is dequantized but the result, and no float product is left.
    assert left.count("QuantizeLinear") == 1, left
    assert left.count("DequantizeLinear") <= 1, left
    assert not set(left) & {"Conv", "FusedConv", "Gemm", "MatMul"}, left


@pytest.mark.parametrize("product", ["right", "left", "both"])
def test_products_of_matrices(product: str, tmp_path: Path) -> None:
    net = Net(x=(2, 4, 8), z=(2, 8, 8))
    if product == "right":
        net("MatMul", "x", weights(8, 8), to="y")
    elif product == "left":
        net("MatMul", weights(4, 4), "x", to="y")
    else:
        net("MatMul", "x", "z", to="y")
    model, feeds = net.model("y"), net.feeds()

    made = quantized(model, feeds, ORT_CPU)

    assert "MatMulIntegerToFloat" in optimised(made, tmp_path)
    np.testing.assert_allclose(run(made, feeds)["y"], run(model, feeds)["y"], atol=0.1)


def depthwise_net(around: str) -> Net:
    net = Net(x=(1, 8, 9, 9))
    net(around, "x", *([weights(8, 8, 1, 1)] if around == "Conv" else []), to="a")
    net("Conv", "a", weights(8, 1, 3, 3), to="b", group=8, pads=[1, 1, 1, 1])
    net("Softmax", "b", to="p")
    net("Conv", "b" if around == "Conv" else "p", weights(8, 8, 1, 1), to="c")
    return net


def test_depthwise_convolutions_are_quantized_beside_quantized_nodes_only() -> None:
    left = {}
    for around in ("Conv", "Softmax"):
        net = depthwise_net(around)
        model = net.model("c", "p")
        decision = decide(Wiring.of(model), ORT_CPU, ranges_of(model, net.feeds()))
        left[around] = {one.node: one.why for one in decision.left}

    assert left == {"Conv": {}, "Softmax": {"node_b": "a is float"}}


def test_what_no_quantized_node_reads_stays_float() -> None:
    net = Net(x=(1, 4, 6, 6))
    net("Conv", "x", weights(4, 4, 1, 1), to="a")
    net("Add", "a", "x", to="b")
    net("Softmax", "b", to="y")
    model, feeds = net.model("y"), net.feeds()
    ranges = ranges_of(model, feeds)

    decision = decide(Wiring.of(model), ORT_CPU, ranges)

    assert list(decision.nodes) == ["node_a"]
    assert [(one.op, one.why) for one in decision.left] == [("Add", "no quantized node reads it")]


def test_reasons() -> None:
    net = Net(x=(4, 4), v=(4, 4))
    net("Gemm", "x", weights(4, 4), to="a", alpha=0.5)
    net("Gemm", "x", weights(4, 4), to="b", transA=1)
    net("MatMul", "x", weights(4), to="c")
    net("MatMul", "x", weights(4, 4), to="d")
    net("MatMul", "v", weights(4, 4), to="e")
    net("Add", "a", "x", to="f")
    model, feeds = net.model("a", "b", "c", "d", "e", "f"), net.feeds()
    ranges = ranges_of(model, feeds)

    decision = decide(Wiring.of(model), ORT_CPU, ranges, exclude=["node_d"], unknown=["v"])

    assert {one.node[-1]: one.why for one in decision.left} == {
        "a": "it scales its operands (alpha, beta)",
        "b": "it transposes its input",
        "c": "its weights are a vector",
        "d": "it is excluded",
        "e": "there is no range of v",
        "f": "a is float",
    }


def test_a_graph_output_keeps_its_name_and_others_read_behind_it(tmp_path: Path) -> None:
    net = Net(x=(1, 4, 6, 6))
    net("Conv", "x", weights(4, 4, 1, 1), to="a")
    net("Conv", "a", weights(4, 4, 1, 1), to="y")
    net("Softmax", "a", to="p")
    model, feeds = net.model("a", "y", "p"), net.feeds()

    made = quantized(model, feeds, ORT_CPU)

    assert optimised(made, tmp_path).count("QLinearConv") == 2
    found, expected = run(made, feeds), run(model, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=0.15)


def test_shared_weights_are_written_once() -> None:
    net = Net(x=(1, 4, 6, 6))
    shared = weights(4, 4, 1, 1)
    net("Conv", "x", shared, to="a")
    net("Conv", "a", "a.1", to="b")
    net("Conv", "b", "a.1", to="y")

    made = quantized(net.model("y"), net.feeds(), ORT_CPU)

    integers = [t for t in made.graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    assert [list(tensor.dims) for tensor in integers if len(tensor.dims) > 1] == [[4, 4, 1, 1]]
    assert not any(
        t.data_type == TensorProto.FLOAT and len(t.dims) > 1 for t in made.graph.initializer
    )


def test_moved_values_keep_their_scale() -> None:
    net = one_node("MaxPool")
    made = quantized(net.model("y"), net.feeds(), ORT_CPU)
    scale = {n.input[0]: n.input[1] for n in made.graph.node if n.op_type == "QuantizeLinear"}

    assert scale["a"] == scale["c"]


def test_tensorrt_sums_in_the_kernel_of_the_last_convolution() -> None:
    net = Net(x=(1, 4, 6, 6))
    net("Conv", "x", weights(4, 4, 1, 1), to="a")
    net("Conv", "a", weights(4, 4, 1, 1), to="b")
    net("Add", "b", "a", to="c")
    net("Relu", "c", to="d")
    net("Conv", "d", weights(4, 4, 1, 1), to="y")
    model, feeds = net.model("y"), net.feeds()
    ranges = ranges_of(model, feeds)

    decision = decide(Wiring.of(model), TENSORRT, ranges)
    made = emit(model, TENSORRT, decision, ranges)

    assert set(decision.values) == {"x", "a", "d"}
    add = next(node for node in made.graph.node if node.op_type == "Add")
    assert list(add.input) == ["b", "a/dequantized"]
    zeros = {n.input[2] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    values = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert all(values[name].dtype == np.int8 and not values[name].any() for name in zeros)


def test_tensorrt_joins_on_one_scale() -> None:
    net = one_node("Concat")
    model, feeds = net.model("y"), net.feeds()
    ranges = ranges_of(model, feeds)

    decision = decide(Wiring.of(model), TENSORRT, ranges)

    assert decision.values["a"] == decision.values["b"] == decision.values["c"]


def test_every_target_has_a_table() -> None:
    assert tuple(one.name for one in PLACEMENTS) == TARGETS
    assert [placement_named(name) for name in TARGETS] == list(PLACEMENTS)
