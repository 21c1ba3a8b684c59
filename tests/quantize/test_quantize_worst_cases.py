"""Networks that quantizers stumble over, from the float graph to what ONNX Runtime runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import deploykit.runtimes  # noqa: F401  (switches telemetry off before onnxruntime is imported)
from deploykit.core.progress import silent
from deploykit.quantize.calibration_options import CalibrationOptions
from deploykit.quantize.options import QuantizeOptions
from deploykit.quantize.prepare.prepare import prepare
from deploykit.quantize.quantize import Quantized, quantize, ranges_of, rescaled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.quantize.conftest import MakeModel, Run

    Arrays = Mapping[str, NDArray[Any]]

TARGETS = ("ort-cpu", "tensorrt", "portable")
PRODUCTS = {"Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "FusedGemm", "ConvTranspose"}


def normal(*shape: int, seed: int = 0) -> NDArray[Any]:
    made: NDArray[Any] = np.random.default_rng(seed).normal(size=shape)
    return made.astype(np.float32)


def weights(*shape: int, seed: int = 1) -> NDArray[Any]:
    made: NDArray[Any] = normal(*shape, seed=seed) / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    return made


def quantized(
    model: onnx.ModelProto, *feeds: Arrays, target: str = "ort-cpu", exclude: tuple[str, ...] = ()
) -> Quantized:
    """Calibrated on what it is asked afterwards."""
    options = QuantizeOptions(target=target, weight_bits="8")
    prepared = rescaled(prepare(model), options, lambda: iter(feeds), threads=1).prepared
    calibration = CalibrationOptions()
    found = ranges_of(
        prepared, options, calibration, iter(feeds), excluded=exclude, threads=1, progress=silent
    )
    made = quantize(prepared, options, found, exclude)
    onnx.checker.check_model(made.model, full_check=True)
    return made


def runs(model: onnx.ModelProto, folder: Path) -> onnx.GraphProto:
    """What ONNX Runtime's optimiser leaves."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return onnx.load(folder / "optimised.onnx").graph


def snr_db(found: NDArray[Any], expected: NDArray[Any]) -> float:
    noise = np.square((found - expected).astype(float)).mean()
    return float(10 * np.log10(np.square(expected.astype(float)).mean() / (noise + 1e-30)))


IMAGE = "(float[N,4,8,8] x) => (float[A,B,C,D] y)"
X = {"x": normal(2, 4, 8, 8)}


@pytest.mark.parametrize("target", TARGETS)
def test_constant_activations(target: str, make_model: MakeModel, run: Run) -> None:
    model = make_model(
        f"{IMAGE} {{ z = Mul(x, none) a = Conv(z, wa, ba) b = Relu(a) y = Conv(b, wb) }}",
        {
            "none": np.array(0, np.float32), "wa": weights(4, 4, 1, 1), "wb": weights(4, 4, 1, 1),
            "ba": np.array([1, -1, 3, 0], np.float32),
        },
    )  # fmt: skip
    made = quantized(model, X, target=target)

    (found,), (expected,) = run(made.model, X), run(model, X)

    assert snr_db(found, expected) > 35


@pytest.mark.parametrize("target", TARGETS)
def test_dead_channels(target: str, make_model: MakeModel, run: Run) -> None:
    wa, wb = weights(4, 4, 3, 3), weights(4, 4, 1, 1)
    wa[1] = 0
    wa[2] = 1e-20
    wb[:, 3] = 0
    bias = np.array([0.1, 2, -3, 0], np.float32)
    model = make_model(
        f"{IMAGE} {{ a = Conv(x, wa, ba) b = Relu(a) y = Conv(b, wb) }}",
        {"wa": wa, "wb": wb, "ba": bias},
    )
    made = quantized(model, X, target=target)

    (found,), (expected,) = run(made.model, X), run(model, X)

    assert np.isfinite(found).all()
    assert snr_db(found, expected) > 30


@pytest.mark.parametrize("target", TARGETS)
def test_a_dead_channel_keeps_its_bias_in_onnx_runtime(target: str, make_model: MakeModel) -> None:
    # Its optimiser makes integers of float biases: of steps of nothing, they had no end.
    import onnxruntime

    wa = weights(4, 4, 1, 1)
    wa[:3] = 0
    model = make_model(
        f"{IMAGE} {{ a = Conv(x, wa, ba) y = Conv(a, wb) }}",
        {"wa": wa, "wb": weights(4, 4, 1, 1), "ba": np.array([7, -5, 3, 1], np.float32)},
    )
    both = [quantized(model, X, target=target).model, model]
    found, expected = (
        onnxruntime.InferenceSession(one.SerializeToString()).run(None, dict(X))[0] for one in both
    )

    assert snr_db(found, expected) > 30


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(1, 6), (6,), (1,), (1, 1), (), (2, 6), (2, 1)])
def test_biases_of_any_shape(
    shape: tuple[int, ...], target: str, make_model: MakeModel, run: Run
) -> None:
    model = make_model(
        "(float[2,4] x) => (float[2,3] y) { a = Gemm(x, wa, ba) b = Relu(a) y = MatMul(b, wb) }",
        {"wa": weights(4, 6), "wb": weights(6, 3), "ba": normal(*shape, seed=3)},
    )
    x = {"x": normal(2, 4)}
    made = quantized(model, x, target=target)

    (found,), (expected,) = run(made.model, x), run(model, x)

    assert snr_db(found, expected) > 30
    assert bool(made.decision.left) is (shape[:1] == (2,))


def test_huge_outliers_cost_accuracy_and_nothing_else(make_model: MakeModel, run: Run) -> None:
    x = {"x": X["x"].copy()}
    x["x"][0, 0, 0, 0] = 1e30
    model = make_model(
        f"{IMAGE} {{ a = Conv(x, wa) b = Relu(a) y = Conv(b, wa) }}", {"wa": weights(4, 4, 1, 1)}
    )
    made = quantized(model, x)

    (found,), (expected,) = run(made.model, x), run(model, x)

    assert np.isfinite(found).all()
    assert snr_db(found, expected) > 25  # the outlier is all that there is


@pytest.mark.parametrize("target", TARGETS)
def test_a_chain_of_residual_blocks(
    target: str, make_model: MakeModel, run: Run, tmp_path: Path
) -> None:
    text, last = "", "x"
    for i in range(6):
        text += f"""a{i} = Conv<pads=[1,1,1,1]>({last}, w{i}) b{i} = Relu(a{i})
            c{i} = Conv<pads=[1,1,1,1]>(b{i}, v{i}) d{i} = Add(c{i}, {last}) e{i} = Relu(d{i}) """
        last = f"e{i}"
    made_of = {f"w{i}": weights(4, 4, 3, 3, seed=i) * 0.5 for i in range(6)}
    made_of |= {f"v{i}": weights(4, 4, 3, 3, seed=i + 9) * 0.5 for i in range(6)}
    model = make_model(f"{IMAGE} {{ {text} y = Conv({last}, w0) }}", made_of)
    made = quantized(model, X, target=target)

    (found,), (expected,) = run(made.model, X), run(model, X)

    assert snr_db(found, expected) > 25
    assert made.decision.left == ()
    if target != "tensorrt":
        left = {node.op_type for node in runs(made.model, tmp_path).node}
        assert not left & (PRODUCTS | {"Add"})


def test_depthwise_layers_without_activations(
    make_model: MakeModel, run: Run, tmp_path: Path
) -> None:
    spread = np.array([100, 1, 0.01, 1], np.float32).reshape(4, 1, 1, 1)
    model = make_model(
        f"""{IMAGE} {{ a = Conv(x, wa) b = Conv<group=4, pads=[1,1,1,1]>(a, wb, bb)
            c = Conv<group=4, pads=[1,1,1,1]>(b, wc) y = Conv(c, wy) }}""",
        {
            "wa": weights(4, 4, 1, 1), "wb": weights(4, 1, 3, 3) * spread, "bb": weights(4),
            "wc": weights(4, 1, 3, 3) / spread, "wy": weights(4, 4, 1, 1),
        },
    )  # fmt: skip
    made = quantized(model, X)

    assert not {node.op_type for node in runs(made.model, tmp_path).node} & PRODUCTS
    assert np.isfinite(run(made.model, X)[0]).all()


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_joined_and_normed(
    target: str, make_model: MakeModel, run: Run, tmp_path: Path
) -> None:
    model = make_model(
        f"""{IMAGE} {{ a = Conv<pads=[1,1,1,1]>(x, wa) b = Concat<axis=1>(x, a)
            c = BatchNormalization(b, scale, shift, mean, variance) d = Relu(c) e = Conv(d, we)
            f = Concat<axis=1>(a, e) g = AveragePool<kernel_shape=[2,2], strides=[2,2]>(f)
            y = Conv(g, wy) }}""",
        {
            "wa": weights(4, 4, 3, 3), "we": weights(4, 8, 1, 1), "wy": weights(4, 8, 1, 1),
            "scale": normal(8), "shift": normal(8, seed=2), "mean": normal(8, seed=3),
            "variance": (8,),
        },
    )  # fmt: skip
    made = quantized(model, X, target=target)

    (found,), (expected,) = run(made.model, X), run(model, X)

    assert snr_db(found, expected) > 25
    if target == "ort-cpu":
        left = [node.op_type for node in runs(made.model, tmp_path).node]
        assert not set(left) & (PRODUCTS | {"AveragePool", "BatchNormalization", "Concat"})
        assert left.count("QuantizeLinear") == 1
        assert left.count("DequantizeLinear") == 1


@pytest.mark.parametrize("target", ["ort-cpu", "portable"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
def test_a_layer_that_stays_float_is_float_when_it_runs(
    op: str, target: str, make_model: MakeModel, run: Run, tmp_path: Path
) -> None:
    # ONNX Runtime would quantize its weights all the same, with one scale.
    if op == "Gemm":
        text = (
            "(float[N,4] x) => (float[N,4] y) { a = Gemm(x, w) b = Gemm(a, w, v) y = Gemm(b, w) }"
        )
        made_of, x = {"w": weights(4, 4), "v": weights(4)}, {"x": normal(3, 4)}
    else:
        text = f"{IMAGE} {{ a = Conv(x, w) b = {op}(a, w, v) c = Relu(b) y = Conv(c, w) }}"
        made_of, x = {"w": weights(4, 4, 1, 1), "v": weights(4)}, X
    model = make_model(text, made_of)
    excluded = [node.name for node in prepare(model).model.graph.node][1]
    made = quantized(model, x, target=target, exclude=(excluded,))

    (graph,) = [runs(made.model, tmp_path)]
    layers = [node.op_type for node in graph.node if node.op_type in PRODUCTS]

    assert len(layers) == 1
    assert sum(node.op_type in {"QLinearConv", "QGemm"} for node in graph.node) == 2
    assert snr_db(run(made.model, x)[0], run(model, x)[0]) > 30


def test_several_inputs_of_different_sizes(make_model: MakeModel, run: Run, tmp_path: Path) -> None:
    model = make_model(
        """(float[N,4,8,8] x, float[N,4,8,8] z, float[N,6] v) => (float[N,3] y) {
            a = Conv(x, wa) b = Conv(z, wb) c = Concat<axis=1>(a, b) d = GlobalAveragePool(c)
            e = Flatten(d) f = Gemm(v, wf) g = Add(e, f) y = Gemm(g, wy) }""",
        {
            "wa": weights(4, 4, 1, 1), "wb": weights(4, 4, 3, 3), "wf": weights(6, 8),
            "wy": weights(8, 3),
        },
        opset=13,
    )  # fmt: skip
    model.graph.node[1].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    feeds = {**X, "z": 100 * normal(2, 4, 8, 8, seed=3), "v": 0.01 * normal(2, 6, seed=4)}
    made = quantized(model, feeds)

    (found,), (expected,) = run(made.model, feeds), run(model, feeds)

    assert snr_db(found, expected) > 25
    assert not {node.op_type for node in runs(made.model, tmp_path).node} & PRODUCTS


def with_branches(layer: str) -> onnx.ModelProto:
    """Both branches of an If multiply a value of the outer graph by its weights."""
    branches = {}
    for name, op in (("then_branch", "MatMul"), ("else_branch", "Add")):
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        node = helper.make_node(op, [layer, "w"], [f"{name}_y"], name)
        branches[name] = helper.make_graph([node], name, [], [out])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("If", ["c"], ["i"], "if", **branches),
        helper.make_node("MatMul", ["i", "v"], ["y"], "last"),
    ]
    values = [("x", TensorProto.FLOAT, [4, 4]), ("c", TensorProto.BOOL, [])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*one) for one in values],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])],
        [numpy_helper.from_array(weights(4, 4, seed=i), n) for i, n in enumerate("wv")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("layer", ["a", "b"])
@pytest.mark.parametrize("target", TARGETS)
def test_subgraphs_read_what_they_read_before(target: str, layer: str, run: Run) -> None:
    model = with_branches(layer)
    ways = [{"x": normal(4, 4), "c": np.array(way)} for way in (True, False)]
    made = quantized(model, *ways, target=target)

    for fed in ways:
        (found,), (expected,) = run(made.model, fed), run(model, fed)
        assert snr_db(found, expected) > 20
    branch = next(node for node in made.model.graph.node if node.op_type == "If")
    kept = [list(item.g.node[0].input) for item in branch.attribute]
    assert kept == [[layer, "w"], [layer, "w"]]
    assert {"first", "last"} <= made.decision.nodes.keys()


def test_any_batch_runs(make_model: MakeModel, run: Run) -> None:
    model = make_model(
        "(float[N,4,8] x) => (float[N,4,3] y) { a = MatMul(x, w) b = Add(a, c) y = MatMul(b, v) }",
        {"w": weights(8, 6), "c": weights(6), "v": weights(6, 3)},
    )
    made = quantized(model, {"x": normal(2, 4, 8)})

    for size in (1, 5):
        x = {"x": normal(2, 4, 8)[:1].repeat(size, axis=0)}
        (found,), (expected,) = run(made.model, x), run(model, x)
        assert snr_db(found, expected) > 30


def test_products_of_fixed_shapes_are_integers(make_model: MakeModel, tmp_path: Path) -> None:
    # Of MatMul and the vector that it adds ONNX Runtime would make a float Gemm here.
    model = make_model(
        """(float[1,6,8] x) => (float[1,6,3] y) {
            a = MatMul(x, w) b = Add(a, c) d = Sigmoid(b) e = Add(d, x) f = MatMul(e, v)
            y = Add(f, g) }""",
        {"w": weights(8, 8), "c": weights(8), "v": weights(8, 3), "g": weights(3)},
    )
    made = quantized(model, {"x": normal(1, 6, 8)})

    graph = runs(made.model, tmp_path)

    assert not {node.op_type for node in graph.node} & PRODUCTS
    constants = {tensor.name for tensor in graph.initializer}
    assert not [
        n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants
    ]


def test_a_product_and_its_bias_are_rounded_once(make_model: MakeModel) -> None:
    model = make_model(
        """(float[N,4,8] x) => (float[N,8,8] y) {
            a = MatMul(x, w) b = Add(a, c) d = Transpose<perm=[0,2,1]>(b) y = MatMul(d, b) }""",
        {"w": weights(8, 8), "c": weights(8)},
    )
    made = quantized(model, {"x": normal(2, 4, 8)})

    assert set(made.decision.values) == {"x", "b", "d"}
    assert made.decision.left == ()


def test_ranges_from_elsewhere_may_lack_some(make_model: MakeModel) -> None:
    model = make_model(
        f"{IMAGE} {{ a = Conv(x, w) b = Relu(a) c = Conv(b, w) d = Add(c, b) y = Conv(d, w) }}",
        {"w": weights(4, 4, 1, 1)},
    )
    prepared, options = prepare(model), QuantizeOptions(weight_bits="8")
    known = ranges_of(
        prepared, options, CalibrationOptions(), iter([X]), threads=1, progress=silent
    )
    del known["d"]

    made = quantize(prepared, options, known)

    assert {one.op: one.why for one in made.decision.left} == {
        "Conv": "there is no range of d", "Add": "no quantized node reads it",
    }  # fmt: skip
    onnx.checker.check_model(made.model, full_check=True)
