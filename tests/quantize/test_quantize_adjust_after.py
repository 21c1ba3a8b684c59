"""Rounding and bias correction: nearer to the float network, on what was not learnt from, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.core.errors import BadInputError
from deploykit.core.progress import silent
from deploykit.quantize.adjust.columns import sampled
from deploykit.quantize.adjust.gptq import Moments, Order, aimed, rounded
from deploykit.quantize.adjust.integers import IntegerGraph
from deploykit.quantize.adjust.layers import form_of
from deploykit.quantize.adjust.walk import Walk, alive_bytes
from deploykit.quantize.calibration_options import CalibrationOptions
from deploykit.quantize.options import QuantizeOptions
from deploykit.quantize.prepare.prepare import Prepared, prepare
from deploykit.quantize.quantize import Quantized, quantize, ranges_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.quantize.conftest import Array, MakeModel, Run

RNG = np.random.default_rng(2)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test's numbers are its own, whichever ran before."""
    RNG.bit_generator.state = np.random.default_rng(2).bit_generator.state


def weight(*shape: int) -> Array:
    return np.asarray(RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:])), np.float32)


def data(*shape: int, count: int = 8) -> list[dict[str, Array]]:
    """Correlated channels with a mean, as activations are."""
    mix = RNG.normal(size=(shape[1], shape[1]))
    found = []
    for _ in range(count):
        values = np.einsum("nc...,cd->nd...", RNG.normal(size=shape), mix) + 1.0
        found.append({"x": np.asarray(values, np.float32)})
    return found


def quantized(
    model: onnx.ModelProto, batches: list[dict[str, Array]], **options: Any
) -> tuple[Prepared, Quantized]:
    prepared = prepare(model)
    wanted = QuantizeOptions(**options)
    ranges = ranges_of(prepared, wanted, CalibrationOptions(), batches, progress=silent)
    made = quantize(prepared, wanted, ranges, (), batches)
    onnx.checker.check_model(made.model, full_check=True)
    return prepared, made


@pytest.fixture
def network(make_model: MakeModel) -> onnx.ModelProto:
    """Convolutions with and without bias, depthwise, a shared weight, a sum, and a Gemm."""
    text = (
        "a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) d = Conv<group=8, pads=[1,1,1,1]>(r, k, kb) "
        "c = Clip(d, low, high) p = Conv(c, s, b) q = Conv(p, s, b) e = Add(q, r) "
        "t = Relu(e) g = GlobalAveragePool(t) f = Flatten(g) y = Gemm<transB=1>(f, m, mb)"
    )
    weights = {
        "w": weight(8, 3, 3, 3), "k": weight(8, 1, 3, 3) * 2, "kb": weight(8),
        "s": weight(8, 8, 1, 1), "b": weight(8), "m": weight(5, 8), "mb": weight(5),
        "low": np.array(0, np.float32), "high": np.array(6, np.float32),
    }  # fmt: skip
    return make_model(f"(float[N,3,8,8] x) => (float[N,5] y) {{ {text} }}", weights)


def channel_errors(prepared: Prepared, made: Quantized, batches: Any, name: str, run: Run) -> Array:
    """The mean error of every channel of a value, over some data."""

    def tapped(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.graph.output[:]
        copy.graph.output.extend(onnx.helper.make_value_info(n, onnx.TypeProto()) for n in names)
        return copy

    models = [tapped(prepared.model, [name]), tapped(made.model, [name])]
    errors = [run(models[1], fed)[0].astype(np.float64) - run(models[0], fed)[0] for fed in batches]
    whole = np.concatenate(errors)
    return np.asarray(whole.mean(axis=(0, *range(2, whole.ndim))))


def test_every_layer_keeps_the_mean_of_its_channels(network: onnx.ModelProto, run: Run) -> None:
    batches = data(16, 3, 8, 8)
    prepared, plain = quantized(network, batches, per_channel=False, bias_correction=False)
    _, made = quantized(network, batches, per_channel=False, bias_correction=True)

    assert [name for name, _ in made.adjusted.corrected] == [
        node.name for node in prepared.model.graph.node if node.op_type in {"Conv", "Gemm"}
    ]
    for name in ("a", "d", "p", "q"):
        before = np.abs(channel_errors(prepared, plain, batches, name, run)).max()
        after = np.abs(channel_errors(prepared, made, batches, name, run)).max()
        assert after < max(0.02 * before, 1e-3), name  # to a step of the bias's integers
    unseen = data(64, 3, 8, 8, count=1)
    was, now = (
        np.abs(run(one.model, unseen[0])[0] - run(prepared.model, unseen[0])[0]).mean()
        for one in (plain, made)
    )
    assert now < was * 1.5


def test_a_bias_is_added_where_there_was_none_and_shared_ones_part(
    network: onnx.ModelProto,
) -> None:
    _, made = quantized(network, data(4, 3, 8, 8), bias_correction=True)

    nodes = {node.output[0]: node for node in made.model.graph.node}
    convs = [node for node in made.model.graph.node if node.op_type == "Conv"]
    biases = [nodes[node.input[2]] for node in convs]
    assert {node.op_type for node in biases} == {"DequantizeLinear"}
    assert len({node.input[0] for node in biases}) == len(convs)
    types = {one.name: one.data_type for one in made.model.graph.initializer}
    assert {types[node.input[0]] for node in biases} == {onnx.TensorProto.INT32}


@pytest.mark.parametrize("target", ["tensorrt", "portable"])
def test_biases_of_every_target(network: onnx.ModelProto, target: str, run: Run) -> None:
    batches = data(4, 3, 8, 8)
    prepared, made = quantized(network, batches, target=target, bias_correction=True)

    assert np.abs(channel_errors(prepared, made, batches, "y", run)).max() < 0.02


def test_the_constant_behind_a_matmul_is_its_bias(make_model: MakeModel, run: Run) -> None:
    text = "a = MatMul(x, w) b = Add(a, c) y = Sigmoid(b)"
    model = make_model(
        f"(float[N,4,6] x) => (float[N,4,5] b, float[N,4,5] y) {{ {text} }}",
        {"w": weight(6, 5), "c": weight(5)},
    )
    batches = [{"x": np.asarray(RNG.normal(size=(8, 4, 6)) + 1, np.float32)} for _ in range(3)]

    prepared, made = quantized(model, batches, bias_correction=True)

    errors = [run(made.model, fed)[0] - run(prepared.model, fed)[0] for fed in batches]
    assert np.abs(np.concatenate(errors).mean(axis=(0, 1))).max() < 1e-5


def test_rounding_is_nearer_on_data_that_it_has_not_seen(
    network: onnx.ModelProto, run: Run
) -> None:
    both = data(16, 3, 8, 8, count=16)
    batches, unseen = both[:8], both[8:]
    prepared, plain = quantized(network, batches, target="portable", bias_correction=False)
    _, made = quantized(network, batches, target="portable", rounding="gptq", bias_correction=False)

    assert made.adjusted.rounded
    assert all(left < 1 for _, left in made.adjusted.rounded)
    name = prepared.model.graph.node[0].output[0]
    errors = [
        np.mean([
            np.square(run(one.model, fed)[0] - run(prepared.model, fed)[0]).mean() for fed in unseen
        ])
        for one in (plain, made)
    ]  # fmt: skip
    assert name == "a"
    assert errors[1] < errors[0] * 1.2


def test_the_shared_weight_stays_the_nearest(network: onnx.ModelProto) -> None:
    _, made = quantized(network, data(4, 3, 8, 8), rounding="gptq")

    shared = {node.name for node in made.model.graph.node if node.output[0] in {"p", "q"}}
    assert not shared & {name for name, _ in made.adjusted.rounded}


def test_no_data_is_said(network: onnx.ModelProto) -> None:
    options = QuantizeOptions(bias_correction=True)
    prepared = prepare(network)
    batches = data(2, 3, 8, 8)
    ranges = ranges_of(prepared, options, CalibrationOptions(), batches, progress=silent)

    with pytest.raises(BadInputError, match="there is no calibration data: give --calibrate"):
        quantize(prepared, options, ranges, (), [])


def test_gptq_is_nearer_than_nearest_and_the_least_squares_are_aimed_at() -> None:
    columns, out, rows = 24, 6, 600
    mix = RNG.normal(size=(columns, columns)) * np.exp(RNG.normal(size=columns))
    x = np.asarray(RNG.normal(size=(1, rows, columns)) @ mix, np.float32)
    w = RNG.normal(size=(1, out, columns))
    scale = np.full((1, out, 1), 0.3)
    noise = x + np.asarray(RNG.normal(size=x.shape) * 0.5, np.float32)
    wanted = np.asarray(x @ w.swapaxes(1, 2), np.float32)
    seen = Moments.empty(1, columns, out)
    seen.add(noise, wanted - np.asarray(noise @ w.swapaxes(1, 2), np.float32))

    def error(made: Array) -> float:
        return float(np.square(noise @ made.swapaxes(1, 2) - wanted).sum())

    nearest = np.rint(w / scale) * scale
    plain = rounded(w, scale, (-128, 127), Order.of(seen)) * scale
    goal = aimed(w, seen)
    best = rounded(goal, scale, (-128, 127), Order.of(seen)) * scale
    for change in (nearest, plain, best):
        np.testing.assert_allclose(seen.loss(change - w), error(change), rtol=1e-4)
    assert error(goal) < error(w)
    assert error(plain) < 0.7 * error(nearest)
    assert error(best) < error(plain)


def test_centred_moments_do_not_count_what_a_bias_can_take() -> None:
    rows = np.asarray(RNG.normal(size=(2, 50, 4)) + 3, np.float32)
    missing = np.asarray(RNG.normal(size=(2, 50, 3)) + 5, np.float32)
    change = RNG.normal(size=(2, 3, 4))
    seen = Moments.empty(2, 4, 3)
    seen.add(rows[:, :20], missing[:, :20])
    seen.add(rows[:, 20:], missing[:, 20:])

    error = missing - rows @ change.swapaxes(1, 2)
    np.testing.assert_allclose(seen.loss(change), np.square(error).sum(), rtol=1e-5)
    error -= error.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(seen.centred().loss(change), np.square(error).sum(), rtol=1e-5)


def test_a_dead_input_and_a_dead_channel_are_rounded_to_nothing() -> None:
    rows = np.asarray(RNG.normal(size=(1, 50, 4)), np.float32)
    rows[:, :, 2] = 0
    seen = Moments.empty(1, 4, 2)
    seen.add(rows, np.zeros((1, 50, 2), np.float32))
    w = RNG.normal(size=(1, 2, 4))
    w[:, 1] = 0

    made = rounded(w, np.array([[[0.01], [1e-30]]]), (-128, 127), Order.of(seen))

    assert np.isfinite(made).all()
    assert not made[:, 1].any()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pads": [1, 2, 0, 1]},
        {"strides": [2, 1], "pads": [1, 1, 1, 1]},
        {"dilations": [2, 1]},
        {"group": 2, "pads": [1, 1, 1, 1]},
        {"group": 4},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
    ],
    ids=str,
)
def test_rows_times_weights_are_the_convolution(settings: dict[str, Any], run: Run) -> None:
    w = weight(8, 4 // settings.get("group", 1), 3, 2)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], **settings)
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info("x", 1, [2, 4, 8, 9])],
        [onnx.helper.make_value_info("y", onnx.TypeProto())],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
    )
    x = np.asarray(RNG.normal(size=(2, 4, 8, 9)), np.float32)
    (y,) = run(model, {"x": x})
    form = form_of(node, w.shape)

    rows, wanted = sampled(node, form, x, y, 1000)

    split = np.asarray(form.split(w), np.float32)
    flat = split.reshape(*split.shape[:2], -1)
    np.testing.assert_allclose(rows @ flat.swapaxes(1, 2), wanted, atol=1e-5)
    assert wanted.size == y.size
    few, _ = sampled(node, form, x, y, 7)
    assert few.shape[1] == 7


def test_a_walk_keeps_only_what_is_still_read(network: onnx.ModelProto, tmp_path: Path) -> None:
    prepared = prepare(network)
    walk = Walk(prepared.model, None, tmp_path)
    names = {node.output[0]: node.name for node in prepared.model.graph.node}
    for fed in data(2, 3, 8, 8, count=3):
        walk.feed(fed)

    walk.until(names["p"])
    assert len(list(tmp_path.iterdir())) == 3 * 2  # the clip, and the ReLU that the sum reads
    assert [one.shape for one in walk.results(names["p"])] == [(2, 8, 8, 8)] * 3
    walk.until(names["y"])
    assert len(list(tmp_path.iterdir())) == 3
    assert [one.shape for one in walk.inputs("f")] == [(2, 8)] * 3


def test_bytes_that_wait(network: onnx.ModelProto) -> None:
    graph = prepare(network).model.graph

    assert alive_bytes(graph, {"x": 10, "a": 3, "r": 4, "d": 5, "c": 5}) == 14  # r, d and c


def test_layers_of_a_quantized_graph(network: onnx.ModelProto) -> None:
    _, made = quantized(network, data(2, 3, 8, 8), bias_correction=False)
    graph = IntegerGraph(made.model, 8)
    layers = {layer.node.output[0]: layer for layer in graph.layers()}

    assert list(layers) == ["a", "d", "p", "q", layers_last(made)]
    assert [graph.is_shared(layer) for layer in layers.values()] == [
        False, False, True, True, False,
    ]  # fmt: skip
    bias = graph.bias(layers["a"])
    assert bias is not None
    assert not bias.any()


def layers_last(made: Quantized) -> str:
    return str(next(n for n in made.model.graph.node if n.op_type == "Gemm").output[0])
