"""Equalisation: the function stays, weights become even, and what cannot be scaled is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.core.progress import silent
from deploykit.quantize.adjust.before import Rescaled, equalise
from deploykit.quantize.adjust.channels import channels_of
from deploykit.quantize.graph.values import Graph
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from tests.quantize.conftest import Array, MakeModel, Run

RNG = np.random.default_rng(1)
FLOAT = "float[N,3,8,8] x"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test's numbers are its own, whichever ran before."""
    RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state


class Equal(Protocol):
    def __call__(self, text: str, weights: dict[str, Array]) -> Rescaled: ...


def uneven(*shape: int, axis: int = 0, spread: float = 3.0) -> Array:
    """Normal weights whose channels along an axis differ by orders of magnitude."""
    values = RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    scales = np.exp(RNG.uniform(-spread, spread, shape[axis]))
    beside = scales.reshape([-1 if d == axis else 1 for d in range(len(shape))])
    return np.asarray(values * beside, np.float32)


def bias(size: int, shift: float = 0.0) -> Array:
    return (RNG.normal(size=size) * 0.1 + shift).astype(np.float32)


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


@pytest.fixture
def equal(make_model: MakeModel, run: Run) -> Equal:
    """Equalise a graph; on the data that it saw it computes the same."""

    def do(text: str, weights: dict[str, Array]) -> Rescaled:
        prepared = prepare(make_model(text, weights))
        before = prepared.model.SerializeToString(deterministic=True)
        shape = [d.dim_value or 4 for d in prepared.model.graph.input[0].type.tensor_type.shape.dim]
        feeds = [{"x": RNG.normal(size=shape).astype(np.float32) * 3} for _ in range(3)]
        found = equalise(prepared, feeds, progress=silent)
        assert prepared.model.SerializeToString(deterministic=True) == before
        onnx.checker.check_model(found.prepared.model, full_check=True)
        for fed in feeds:
            for one, other in zip(
                run(found.prepared.model, fed), run(prepared.model, fed), strict=True
            ):
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5 * np.abs(other).max())
        return found

    return do


def spread_in(weight: Array, axis: int) -> float:
    """The largest range of a channel over the geometric mean of all."""
    most = np.abs(weight).max(axis=tuple(d for d in range(weight.ndim) if d != axis))
    return float(most.max() / np.exp(np.log(most).mean()))


CONVS = "a = Conv<pads=[1,1,1,1]>(x, w, b) {act} y = Conv<pads=[1,1,1,1]>(r, v, c)"


@pytest.mark.parametrize(
    "act",
    [
        "r = Relu(a)",
        "r = LeakyRelu<alpha=0.1>(a)",
        "r = PRelu(a, slope)",
        "r = Identity(a)",
        "p = Relu(a) r = MaxPool<kernel_shape=[2,2]>(p)",
        "p = Relu(a) r = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(p)",
    ],
)
def test_two_convolutions_share_their_ranges(equal: Equal, act: str) -> None:
    weights = {"w": uneven(8, 3, 3, 3), "b": bias(8), "v": uneven(4, 8, 3, 3), "c": bias(4)}
    if "slope" in act:
        weights["slope"] = RNG.random((8, 1, 1)).astype(np.float32)
    text = CONVS.replace("{act}", act)

    found = equal(f"({FLOAT}) => (float[N,4,M,M] y) {{ {text} }}", weights)

    after = constants(found.prepared.model)
    assert found.equalised == ("a",)
    assert spread_in(after["w"], 0) < 0.6 * spread_in(weights["w"], 0)
    # Nobody wins more than the other side has: both have the geometric mean, where not bounded.
    most, taken = np.abs(after["w"]).max(axis=(1, 2, 3)), np.abs(after["v"]).max(axis=(0, 2, 3))
    assert np.isclose(most, taken, rtol=1e-2).sum() >= 4


def test_a_clip_stays_and_clips_the_same(equal: Equal) -> None:
    weights = {
        "w": uneven(8, 3, 3, 3, spread=2.0), "b": bias(8), "v": uneven(4, 8, 1, 1), "c": bias(4),
        "low": np.array(0, np.float32), "high": np.array(6, np.float32),
    }  # fmt: skip
    text = "a = Conv(x, w, b) r = Clip(a, low, high) y = Conv(r, v, c)"

    found = equal(f"({FLOAT}) => (float[N,4,6,6] y) {{ {text} }}", weights)

    after = constants(found.prepared.model)
    changed = np.abs(after["w"] / weights["w"] - 1).max(axis=(1, 2, 3)) > 1e-3
    assert changed.any()
    assert not changed.all()  # those that reach 6 are as they were


def test_depthwise_in_the_middle_with_and_without_activation(equal: Equal) -> None:
    weights = {
        "w": uneven(8, 3, 1, 1), "b": bias(8), "d": uneven(8, 1, 3, 3), "e": bias(8),
        "v": uneven(4, 8, 1, 1, axis=1), "c": bias(4),
    }  # fmt: skip
    for act in ("r = Relu(a)", "r = Identity(a)"):
        text = (
            f"a = Conv(x, w, b) {act} q = Conv<group=8, pads=[1,1,1,1]>(r, d, e) y = Conv(q, v, c)"
        )
        found = equal(f"({FLOAT}) => (float[N,4,8,8] y) {{ {text} }}", weights)

        after = constants(found.prepared.model)
        assert len(found.equalised) == 2
        for name in ("w", "d"):
            assert spread_in(after[name], 0) < spread_in(weights[name], 0)


def test_groups_and_a_depth_multiplier_and_transposed(equal: Equal) -> None:
    weights = {
        "w": uneven(4, 3, 1, 1), "b": bias(4), "d": uneven(8, 1, 3, 3), "g": uneven(6, 4, 1, 1),
        "t": uneven(6, 2, 2, 2), "f": bias(4), "v": uneven(4, 4, 1, 1),
    }  # fmt: skip
    text = (
        "a = Conv(x, w, b) r = Relu(a) q = Conv<group=4>(r, d) s = Conv<group=2>(q, g) "
        "u = Relu(s) t1 = ConvTranspose<group=2, strides=[2,2]>(u, t, f) y = Conv(t1, v)"
    )

    found = equal(f"({FLOAT}) => (float[N,4,12,12] y) {{ {text} }}", weights)

    assert found.equalised == ("a", "q", "s", "t1")


def test_matrices_behind_a_pool(equal: Equal) -> None:
    weights = {
        "w": uneven(8, 3, 3, 3), "b": bias(8), "g": uneven(6, 8), "h": bias(6), "m": uneven(6, 5),
    }  # fmt: skip
    text = (
        "a = Conv(x, w, b) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) "
        "k = Gemm<transB=1>(f, g, h) l = Relu(k) y = MatMul(l, m)"
    )

    found = equal(f"({FLOAT}) => (float[N,5] y) {{ {text} }}", weights)

    assert found.equalised == ("a", "k")


def test_residual_sums_have_one_factor(equal: Equal) -> None:
    weights = {
        "w": uneven(8, 3, 1, 1), "b": bias(8), "v": uneven(8, 8, 3, 3), "c": bias(8),
        "u": uneven(4, 8, 1, 1),
    }  # fmt: skip
    text = (
        "a = Conv(x, w, b) r = Relu(a) q = Conv<pads=[1,1,1,1]>(r, v, c) s = Add(q, r) "
        "t = Relu(s) y = Conv(t, u)"
    )

    found = equal(f"({FLOAT}) => (float[N,4,8,8] y) {{ {text} }}", weights)

    assert found.equalised == ("q",)  # with a, r, s and t
    after = constants(found.prepared.model)
    ratio = np.median(weights["w"] / after["w"], axis=(1, 2, 3))
    np.testing.assert_allclose(after["u"][0, :, 0, 0], weights["u"][0, :, 0, 0] * ratio, rtol=1e-5)


def test_what_cannot_be_scaled_is_left(make_model: MakeModel) -> None:
    weights = {
        "w": uneven(8, 3, 1, 1), "s": uneven(8, 8, 1, 1), "v": uneven(8, 8, 1, 1),
        "low": np.array(-1, np.float32), "high": np.array(1, np.float32),
    }  # fmt: skip
    text = (
        "a = Conv(x, w) o = Relu(a) b = Conv(o, s) c = Conv(b, s) d = Conv(c, v) "
        "e = Clip(d, low, high) f = Softmax<axis=1>(e) y = Add(f, c)"
    )
    model = make_model(f"({FLOAT}) => (float[N,8,8,8] y, float[N,8,8,8] o) {{ {text} }}", weights)

    found = channels_of(Graph(prepare(model).model, None))

    assert {one.values[0]: one.fixed for one in found} == {
        "a": "Conv_b (Conv) does not let factors through",  # its weight is not its own
        "d": "Clip_e (Clip) does not let factors through",
    }


def test_dead_channels_outliers_and_huge_biases_stay_finite(equal: Equal) -> None:
    weights = {"w": uneven(8, 3, 1, 1), "b": bias(8), "v": uneven(4, 8, 1, 1), "c": bias(4)}
    weights["w"][0] = 0  # dead, with a bias that is always there
    weights["b"][0] = 0.5
    weights["w"][1] = 1e-30
    weights["w"][2] *= 1e6
    weights["v"][:, 3] = 0  # nobody reads it
    text = "a = Conv(x, w, b) r = Relu(a) y = Conv(r, v, c)"

    found = equal(f"({FLOAT}) => (float[N,4,8,8] y) {{ {text} }}", weights)

    after = constants(found.prepared.model)
    assert all(np.isfinite(value).all() for value in after.values())
    np.testing.assert_array_equal(after["v"][:, 3], 0)
    np.testing.assert_array_equal(after["w"][3], weights["w"][3])


def test_no_channel_is_scaled_beyond_the_largest(make_model: MakeModel, run: Run) -> None:
    weights = {"w": uneven(8, 3, 1, 1), "b": bias(8), "v": uneven(4, 8, 1, 1), "c": bias(4)}
    weights["w"][0] = 1e-9  # its activation is its bias: equalised, it would be huge
    weights["b"][0] = 0.5
    text = "a = Conv(x, w, b) r = Relu(a) y = Conv(r, v, c)"
    model = make_model(
        f"({FLOAT}) => (float[N,8,8,8] r2, float[N,4,8,8] y) {{ {text} r2 = Abs(r) }}", weights
    )
    prepared = prepare(model)
    fed = [{"x": RNG.normal(size=(4, 3, 8, 8)).astype(np.float32)}]

    found = equalise(prepared, fed, progress=silent)

    assert not found.equalised  # Abs reads it, too
    model = make_model(f"({FLOAT}) => (float[N,4,8,8] y) {{ {text} }}", weights)
    found = equalise(prepare(model), fed, progress=silent)
    largest = []
    for one in (model, found.prepared.model):
        tapped = onnx.ModelProto()
        tapped.CopyFrom(one)
        tapped.graph.output.append(onnx.helper.make_value_info("r", onnx.TypeProto()))
        largest.append(float(run(tapped, fed[0])[-1].max()))
    assert found.equalised
    assert largest[1] <= largest[0] * 1.0001


def test_what_is_always_there_goes_into_the_next_bias(equal: Equal) -> None:
    weights = {
        "w": uneven(8, 3, 1, 1, spread=0.1) * 0.1, "b": bias(8, shift=20.0),
        "v": uneven(4, 8, 1, 1), "g": uneven(5, 8, 1, 1), "h": bias(5),
    }  # fmt: skip
    text = "a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) z = Conv(r, g, h)"

    found = equal(f"({FLOAT}) => (float[N,4,8,8] y, float[N,5,8,8] z) {{ {text} }}", weights)

    assert found.absorbed == ("Conv_a",)
    after = constants(found.prepared.model)
    assert np.abs(after["b"]).max() < 0.5 * np.abs(weights["b"]).max()
    assert after["v_bias"].shape == (4,)


@pytest.mark.parametrize(
    "text",
    [
        "a = Conv(x, w, b) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, v)",  # zeros at its edges
        "a = Conv(x, w, b) r = Relu(a) s = Abs(r) y = Conv(s, v)",
        "a = Conv(x, w, b) r = Relu(a) t = Conv(r, v) y = Add(t, r)",
    ],
)
def test_biases_that_are_not_absorbed(equal: Equal, text: str) -> None:
    weights = {
        "w": uneven(8, 3, 1, 1, spread=0.1) * 0.1, "b": bias(8, shift=20.0),
        "v": uneven(8, 8, 1, 1),
    }  # fmt: skip

    found = equal(f"({FLOAT}) => (float[N,8,M,M] y) {{ {text} }}", weights)

    assert not found.absorbed
