"""Half precision: the graphs that other converters break, each checked, run and compared."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from deploykit.check.parity import relative_difference
from deploykit.core.errors import BadInputError
from deploykit.quantize.half.convert import Halved, halve, kept_reasons, known_of
from deploykit.quantize.half.observe import FiniteExtremes, wanted_values
from deploykit.quantize.half_options import HalfOptions
from deploykit.quantize.prepare.prepare import prepare
from deploykit.quantize.ranges import Range

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RNG = np.random.default_rng(0)


def network(text: str, opset: int = 20, **constants: Any) -> onnx.ModelProto:
    """A model of this text; constants by name."""
    model: onnx.ModelProto = parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}, "own" : 1]>\n{text}'
    )
    for name, value in constants.items():
        kind = np.float32 if np.asarray(value).dtype.kind == "f" else None
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
    return model


def weight(*shape: int) -> NDArray[Any]:
    values: NDArray[Any] = RNG.normal(size=shape) / np.sqrt(shape[0])
    return values


def floats(*values: Any) -> NDArray[Any]:
    """An array of float32; of one row for each list."""
    return np.asarray(values, np.float32)


def converted(
    model: onnx.ModelProto, seen: dict[str, float] | None = None, **options: Any
) -> Halved:
    """Converted, and held against everything that must be true of any conversion."""
    prepared = prepare(model)
    ranges = {name: Range(name, -top, top) for name, top in (seen or {}).items()}
    made = halve(prepared, HalfOptions(**options), ranges)
    for one in (made.model, made.simulated):
        onnx.checker.check_model(one, full_check=True)
    casts = [node for node in made.model.graph.node if node.op_type == "Cast"]
    alike = Counter((node.input[0], node.attribute[0].i) for node in casts)
    assert max(alike.values(), default=1) == 1, "two casts that are alike"
    made_by_cast = {node.output[0] for node in casts if node.name.endswith("_cast")}
    assert not [n.name for n in casts if n.name.endswith("_cast") and n.input[0] in made_by_cast]
    return made


def kept(made: Halved) -> dict[str, str]:
    return dict(made.decision.kept)


def outputs(model: onnx.ModelProto, fed: dict[str, Any], *, plain: bool = False) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, fed))


def agrees(model: onnx.ModelProto, made: Halved, fed: dict[str, Any], limit: float = 5e-3) -> None:
    """Both the file and its simulation compute what the float32 network does."""
    want = outputs(model, fed)
    for found in (outputs(made.model, fed), outputs(made.simulated, fed, plain=True)):
        for one, other in zip(want, found, strict=True):
            assert relative_difference(one, other) < limit


def types(model: onnx.ModelProto) -> dict[str, int]:
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in model.graph.initializer
    }


def feed(*shape: int, name: str = "x") -> dict[str, Any]:
    return {name: RNG.normal(size=shape).astype(np.float32)}


CHAIN = """g (float[N, 8] x) => (float[N, 4] y) {
    a = MatMul(x, w1)
    b = Relu(a)
    y = MatMul(b, w2)
}"""


def test_a_plain_chain_is_half_between_two_casts() -> None:
    model = network(CHAIN, w1=weight(8, 8), w2=weight(8, 4))
    made = converted(model)

    assert [n.op_type for n in made.model.graph.node] == [
        "Cast", "MatMul", "Relu", "MatMul", "Cast",
    ]  # fmt: skip
    assert kept(made) == {}
    found = types(made.model)
    assert found["x"] == found["y"] == TensorProto.FLOAT
    assert {found[n] for n in ("a", "b", "w1_fp16", "w2_fp16")} == {TensorProto.FLOAT16}
    assert "w1" not in found
    agrees(model, made, feed(3, 8))


def test_inputs_and_outputs_are_half_on_request() -> None:
    model = network(CHAIN, w1=weight(8, 8), w2=weight(8, 4))
    made = converted(model, half_io=True)

    assert [n.op_type for n in made.model.graph.node] == ["MatMul", "Relu", "MatMul"]
    assert types(made.model)["x"] == types(made.model)["y"] == TensorProto.FLOAT16
    fed = feed(3, 8)
    found = outputs(made.model, {"x": fed["x"].astype(np.float16)})[0]
    assert relative_difference(outputs(model, fed)[0], found) < 5e-3


LARGE = """g (float[N, 8] x) => (float[N, 4] y) {
    a = MatMul(x, big)
    b = Relu(a)
    c = Mul(b, small)
    y = MatMul(c, w)
}"""


def large() -> onnx.ModelProto:
    return network(LARGE, big=weight(8, 8) * 1e5, small=1e-4, w=weight(8, 4))


def test_what_overflows_on_data_stays_float32() -> None:
    model = large()
    made = converted(model, {"x": 4.0, "a": 1.5e5, "b": 1.5e5, "c": 15.0, "y": 20.0})

    assert set(kept(made)) == {"MatMul_a", "Relu_b", "Mul_c"}
    assert kept(made)["Relu_b"] == "a reaches 1.5e+05; float16 ends at 65504"
    agrees(model, made, feed(64, 8))


def test_the_simulation_overflows_where_the_cpu_hides_it() -> None:
    """ONNX Runtime's CPU computes float16 chains in float32, and says that all is well."""
    model = network(
        "g (float[N] x) => (float[N] y) { a = Mul(x, k)\n z = Mul(a, l)\n y = MatMul(z, w) }",
        k=6e4, l=1e-3, w=np.eye(2),
    )  # fmt: skip
    made = converted(model)
    fed = {"x": floats(1.5, 2.0)}

    assert np.isfinite(outputs(made.model, fed)[0]).all()
    assert not np.isfinite(outputs(made.simulated, fed, plain=True)[0]).all()


def test_ranges_are_given_headroom() -> None:
    made = converted(large(), {"x": 4.0, "a": 4e4, "b": 4e4, "c": 4.0, "y": 4.0})

    assert "a reaches 4e+04" in kept(made)["Relu_b"]


def test_a_value_that_is_small_as_a_whole_stays_float32() -> None:
    made = converted(network(CHAIN, w1=weight(8, 8), w2=weight(8, 4)), {"a": 1e-5})

    assert kept(made)["Relu_b"] == "a is at most 1e-05, where float16 loses precision"


def test_what_is_small_may_be_added_to_what_is_not() -> None:
    text = """g (float[N, 8] x) => (float[N, 8] y) {
        a = MatMul(x, w)
        b = Relu(a)
        c = Add(b, x)
        y = MatMul(c, w)
    }"""
    model = network(text, w=weight(8, 8))

    assert kept(converted(model, {"b": 1e-7, "c": 3.0})) == {}
    assert set(kept(converted(model, {"b": 1e-7, "c": 2e-7}))) == {"Relu_b", "Add_c", "MatMul_y"}


NORM = """g (float[N, 8] x) => (float[N, 4] y) {
    a = MatMul(x, w1)
    b = LayerNormalization <axis = -1, epsilon = EPS> (a, scale, bias)
    y = MatMul(b, w2)
}"""


@pytest.mark.parametrize(("epsilon", "stays"), [("1e-12", True), ("1e-5", False)])
def test_a_norm_whose_epsilon_vanishes_stays_float32(epsilon: str, *, stays: bool) -> None:
    model = network(
        NORM.replace("EPS", epsilon), w1=weight(8, 8), w2=weight(8, 4), scale=np.ones(8),
        bias=np.full(8, 0.1),
    )  # fmt: skip
    made = converted(model)

    why = kept(made).get("LayerNormalization_b", "")
    assert (why == "its epsilon 1e-12 is 0 in float16") is stays
    agrees(model, made, feed(3, 8))
    agrees(model, made, {"x": np.zeros((2, 8), np.float32)})


WRITTEN_OUT = """g (float[N, 8] x) => (float[N, 4] y) {
    r = MatMul(x, w1)
    s = Add(r, x)
    mean = ReduceMean <axes = [-1]> (s)
    d = Sub(s, mean)
    q = Pow(d, two)
    v = ReduceMean <axes = [-1]> (q)
    e = Add(v, eps)
    std = Sqrt(e)
    n = Div(d, std)
    m = Mul(n, scale)
    y = MatMul(m, w2)
}"""


@pytest.mark.parametrize("seen", [{}, dict.fromkeys(("x", "r", "s", "mean", "d", "q", "v", "e",
                                                     "std", "n", "m", "y"), 3.0)])  # fmt: skip
def test_a_norm_written_out_keeps_its_statistics(seen: dict[str, float]) -> None:
    model = network(
        WRITTEN_OUT, 17, w1=weight(8, 8), w2=weight(8, 4), two=2.0, eps=1e-12, scale=np.ones(8)
    )
    made = converted(model, seen)

    assert {"Sub_d", "ReduceMean_v", "Add_e", "Sqrt_std", "Div_n", "Pow_q"} <= set(kept(made))
    assert not {"MatMul_r", "Add_s", "Mul_m", "MatMul_y"} & set(kept(made))
    agrees(model, made, feed(3, 8))
    agrees(model, made, {"x": np.zeros((2, 8), np.float32)})


def test_resize_keeps_its_scales_and_regions() -> None:
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 16, 16] y) {
        a = Conv(x, w)
        y = Resize <mode = "linear"> (a, roi, scales)
    }"""
    model = network(
        text, w=weight(4, 4, 1, 1), roi=np.zeros(0, np.float32), scales=[1.0, 1.0, 2.0, 2.0]
    )
    made = converted(model)

    assert kept(made) == {}
    assert types(made.model)["scales"] == TensorProto.FLOAT
    agrees(model, made, feed(1, 4, 8, 8))


def test_a_body_and_what_it_reads_stay_float32() -> None:
    text = """g (float[N, 8] x, bool c) => (float[N, 8] y, float[N, 8] a) {
        a = MatMul(x, w)
        r = Relu(a)
        b = If (c) <
            then_branch = t () => (float[N, 8] p) { p = Add(a, k) },
            else_branch = f () => (float[N, 8] q) { q = Mul(r, k) }
        >
        y = MatMul(b, w)
    }"""
    model = network(text, w=weight(8, 8), k=np.full(8, 0.5))
    made = converted(model)

    assert kept(made) == {"If_b": "what lies within it stays as it is"}
    assert types(made.model)["w_fp16"] == TensorProto.FLOAT16
    assert types(made.model)["k"] == TensorProto.FLOAT
    for condition in (True, False):
        agrees(model, made, feed(3, 8) | {"c": np.asarray(condition)})


def test_what_moves_between_float32_nodes_is_not_cast() -> None:
    text = """g (float[N, 8] x) => (float[8, N] y) {
        a = Sin(x)
        b = Transpose <perm = [1, 0]> (a)
        c = Identity(b)
        d = Cos(c)
        e = MatMul(x, w)
        f = Transpose <perm = [1, 0]> (e)
        y = Add(d, f)
    }"""
    model = network(text, w=weight(8, 8))
    made = converted(model)

    assert kept(made)["Transpose_b"] == "it lies between nodes in float32"
    assert "Transpose_f" not in kept(made)
    assert sum(node.op_type == "Cast" for node in made.model.graph.node) == 3  # x, d, y
    agrees(model, made, feed(5, 8))


def test_casts_shapes_and_bounds_say_their_type() -> None:
    text = """g (float[N, 8] x, bool[N, 8] mask) => (float[N, 8] y, int64[N, 1] i) {
        one = Cast <to = 1> (mask)
        s = Shape(x)
        fill = ConstantOfShape <value = float[1] {0.25}> (s)
        a = MatMul(x, w)
        b = Clip(a, low, high)
        c = Mul(b, one)
        y = Add(c, fill)
        t, i = TopK(y, k)
    }"""
    model = network(
        text, w=weight(8, 8), low=0.0, high=np.float32(3.4e38), k=np.array([1], np.int64)
    )
    made = converted(model)

    assert kept(made) == {}
    bounds = {one.name: one for one in made.model.graph.initializer}
    assert np.isposinf(numpy_helper.to_array(bounds["high_fp16"]))
    fed = feed(5, 8) | {"mask": RNG.random((5, 8)) < 0.5}
    agrees(model, made, fed)


def test_whole_numbers_are_not_rounded() -> None:
    text = """g (float[N, 8] x, int64[N, 8] at) => (float[N, 8] y) {
        f = Cast <to = 1> (at)
        a = MatMul(x, w)
        y = Mul(a, f)
    }"""
    made = converted(network(text, w=weight(8, 8)))

    assert kept(made)["Cast_f"] == "it casts whole numbers, and float16 has not all above 2048"
    seen = dict.fromkeys(("x", "a", "y", "f"), 100.0)
    assert kept(converted(network(text, w=weight(8, 8)), seen)) == {}


MASK = """g (float[N, 8] x, bool[N, 8] mask) => (float[N, 8] y) {
    a = MatMul(x, w)
    b = Where(mask, a, low)
    c = Transpose <perm = [0, 1]> (b)
    d = Softmax(c)
    y = MatMul(d, w)
}"""


def test_an_angle_is_exact_from_where_it_comes() -> None:
    text = """g (float[N, 8] x) => (float[N, 8] y) {
        a = Mul(x, k)
        b = Transpose <perm = [0, 1]> (a)
        c = Sin(b)
        y = MatMul(c, w)
    }"""
    model = network(text, k=3000.0, w=weight(8, 8))
    made = converted(model)

    assert kept(made)["Mul_a"] == "Sin Sin_c needs its angle exact"
    assert kept(made)["Sin_c"].startswith("a large angle would be off by whole turns; --calib")
    assert "MatMul_y" not in kept(made)
    agrees(model, made, feed(5, 8))
    large = kept(converted(model, dict.fromkeys("abx", 9000.0)))
    assert large["Sin_c"] == "angles of 9e+03 would be off by 4.4"
    assert kept(converted(model, dict.fromkeys("abx", 3.0))) == {}


def test_a_huge_mask_keeps_what_it_reaches() -> None:
    model = network(MASK, w=weight(8, 8), low=np.float32(-3.4e38))
    made = converted(model)

    assert set(kept(made)) == {"Where_b", "Transpose_c", "Softmax_d"}
    assert kept(made)["Softmax_d"] == "c may be as large as the constant low"
    mask = np.arange(40).reshape(5, 8) % 3 == 0
    agrees(model, made, feed(5, 8) | {"mask": mask})
    agrees(model, made, feed(5, 8) | {"mask": np.zeros((5, 8), bool)})


def test_an_infinite_mask_is_half() -> None:
    model = network(MASK, w=weight(8, 8), low=np.float32(-np.inf))
    made = converted(model)

    assert kept(made) == {}
    agrees(model, made, feed(5, 8) | {"mask": np.arange(40).reshape(5, 8) % 3 == 0})


def test_constants_are_never_clamped() -> None:
    model = network(
        CHAIN.replace("y = MatMul(b, w2)", "c = MatMul(b, w2)\n y = Relu(c)"),
        w1=weight(8, 8) * 1e-8, w2=weight(8, 4) * 1e6,
    )  # fmt: skip
    made = converted(model, {"x": 4.0, "a": 4e-8, "b": 4e-8, "y": 0.04})

    assert "too small for float16" in kept(made)["MatMul_a"]
    assert " reaches " in kept(made)["MatMul_c"]
    found = {one.name: numpy_helper.to_array(one) for one in made.model.graph.initializer}
    assert found["w1"].dtype == found["w2"].dtype == np.float32
    agrees(model, made, feed(3, 8), 1e-2)


def test_a_constant_serves_both_types() -> None:
    text = """g (float[N, 8] x) => (float[N, 8] y) {
        a = MatMul(x, w)
        b = Add(a, v)
        c = Sin(v)
        y = Mul(b, c)
    }"""
    model = network(text.replace("Sin(v)", "CumSum(v2, zero)").replace(
        "b = Add(a, v)", "v2 = Add(a, v)\n b = Add(v2, v)"
    ), w=weight(8, 8), v=weight(8), zero=np.int64(1))  # fmt: skip
    made = converted(model)

    assert set(kept(made)) == {"CumSum_c"}
    agrees(model, made, feed(3, 8))


def test_a_custom_operator_stays_and_needs_a_declared_type() -> None:
    text = """g (float[N, 8] x) => (float[N, 4] y) {
        a = MatMul(x, w1)
        b = own.Thing(a)
        y = MatMul(b, w2)
    }"""
    model = network(text, w1=weight(8, 8), w2=weight(8, 4))
    with pytest.raises(BadInputError) as caught:
        halve(prepare(model), HalfOptions(), {})
    assert str(caught.value) == (
        "node 'Thing_b' is the custom operator own:Thing, and nobody says of which type its "
        "output 'b' is: add it to the file's value_info (onnx.helper.make_tensor_value_info)"
    )

    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 8]))
    made = halve(prepare(model), HalfOptions(), {})
    assert kept(made) == {"Thing_b": "it is a custom operator (own)"}
    assert [n.op_type for n in made.model.graph.node] == [
        "Cast", "MatMul", "Cast", "Thing", "Cast", "MatMul", "Cast",
    ]  # fmt: skip


def test_operators_without_half_stay_and_their_neighbours_do_not() -> None:
    text = """g (float[1, 4, 8, 8] x, float[2, 4] rois) => (float[2, 4, 2, 2] y, int64[M, 3] n) {
        a = Conv(x, w)
        y = RoiAlign <output_height = 2, output_width = 2> (a, rois, at)
        boxes = Reshape(rois, s1)
        scores = Reshape(rois, s2)
        n = NonMaxSuppression(boxes, scores)
    }"""
    model = network(
        text, w=weight(4, 4, 1, 1), at=np.zeros(2, np.int64), s1=np.array([1, 2, 4]),
        s2=np.array([1, 4, 2]),
    )  # fmt: skip
    made = converted(model)

    assert kept(made)["RoiAlign_y"] == "coordinates need more digits"
    assert "Conv_a" not in kept(made)
    rois = floats([0, 0, 4, 4], [1, 1, 7, 7])
    agrees(model, made, feed(1, 4, 8, 8) | {"rois": rois})


CONV = "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { a = Conv(x, w)\n y = Relu(a) }"


@pytest.mark.parametrize("opset", [18, 22])
def test_bf16_raises_the_opset_where_nothing_changes(opset: int) -> None:
    w = weight(4, 4, 1, 1)
    made = converted(network(CONV, opset, w=w), precision="bf16")

    assert kept(made) == {}
    assert made.model.opset_import[0].version == 22
    fed = feed(1, 4, 8, 8)
    want = outputs(network(CONV, opset, w=w), fed)[0]
    found = outputs(made.simulated, fed, plain=True)[0]
    assert 1e-4 < relative_difference(want, found) < 3e-2


def test_bf16_leaves_an_opset_that_means_something_else() -> None:
    text = CONV.replace("Relu(a)", "Reshape(b, s)").replace("\n", "\n b = Relu(a)\n")
    model = network(text, 13, w=weight(4, 4, 1, 1), s=np.array([1, 4, 8, 8]))
    made = converted(model, precision="bf16")

    assert made.model.opset_import[0].version == 13
    assert kept(made)["Conv_a"] == (
        "ONNX has no bfloat16 for it at this opset; export with --opset 22"
    )


def test_bf16_has_the_range_of_float32() -> None:
    made = converted(large(), {"x": 4.0, "a": 1.5e5, "b": 1.5e5, "c": 15.0}, precision="bf16")

    assert kept(made) == {}


def test_the_list_has_every_node_of_floats() -> None:
    model = network(CHAIN, w1=weight(8, 8), w2=weight(8, 4) * 1e6)
    prepared = prepare(model)
    made = halve(prepared, HalfOptions(), {})

    rows = kept_reasons(made, prepared.model.graph)
    assert [(name, op) for name, op, _ in rows] == [
        ("MatMul_a", "MatMul"), ("Relu_b", "Relu"), ("MatMul_y", "MatMul"),
    ]  # fmt: skip
    assert [bool(why) for *_, why in rows] == [False, False, True]


def test_nothing_to_convert_is_told() -> None:
    model = network(CHAIN, w1=weight(8, 8) * 1e7, w2=weight(8, 4) * 1e7)
    with pytest.raises(BadInputError, match="no node of this network can be of float16: MatMul_a"):
        halve(prepare(model), HalfOptions(), {"a": Range("a", -1e6, 1e6)})


def test_external_weights_are_read_and_rounded(tmp_path: Path) -> None:
    model = network(CHAIN, w1=weight(64, 64), w2=weight(64, 4))
    del model.graph.value_info[:]
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    light = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    made = halve(prepare(light, tmp_path), HalfOptions(), {})

    onnx.checker.check_model(made.model, full_check=True)
    whole = onnx.load(tmp_path / "net.onnx")
    agrees(whole, made, feed(3, 64))


def test_extremes_take_infinities_and_refuse_nan() -> None:
    seen = FiniteExtremes()
    seen.add(floats([1.0, -np.inf], [-3.0, 2.0]))

    assert seen.range("x") == Range("x", -3.0, 2.0)
    seen.add(floats(np.nan))
    with pytest.raises(BadInputError, match=r"^tensor 'x' has 1 NaN on the calibration data; "):
        seen.range("x")


def test_wanted_are_all_floats_in_order() -> None:
    prepared = prepare(network(CHAIN, w1=weight(8, 8), w2=weight(8, 4)))

    assert wanted_values(known_of(prepared, HalfOptions())) == ("x", "a", "b", "y")
