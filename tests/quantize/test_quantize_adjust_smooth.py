"""Smoothing: outliers go into weights, the function stays, and results are nearer in integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from deploykit.core.errors import BadInputError
from deploykit.core.progress import silent
from deploykit.quantize.adjust.smooth import smoothing_factors
from deploykit.quantize.calibration_options import CalibrationOptions
from deploykit.quantize.options import QuantizeOptions
from deploykit.quantize.prepare.prepare import Prepared, prepare
from deploykit.quantize.quantize import quantize, ranges_of, rescaled

if TYPE_CHECKING:
    from tests.quantize.conftest import Array, MakeModel, Run

RNG = np.random.default_rng(3)
WIDTH = 16


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test's numbers are its own, whichever ran before."""
    RNG.bit_generator.state = np.random.default_rng(3).bit_generator.state


def outliers(size: int = WIDTH) -> Array:
    """Two channels far beyond the others, as transformers have them."""
    found = np.ones(size, np.float32)
    found[[3, 7]] = 60, 90
    return found


def normal(*shape: int) -> Array:
    return np.asarray(RNG.normal(size=shape), np.float32)


NORM = "n = LayerNormalization<axis=-1>(x, s, o)"
WITHOUT_SHIFT = "n = LayerNormalization<axis=-1>(x, s)"
DECOMPOSED = (
    "mu = ReduceMean<axes=[-1]>(x) d = Sub(x, mu) p = Pow(d, two) v = ReduceMean<axes=[-1]>(p) "
    "e = Add(v, eps) r = Sqrt(e) h = Div(d, r) m = Mul(h, s) n = Add(m, o)"
)
PRODUCTS = "q = MatMul(n, a) k = MatMul(n, b) y = Add(q, k)"
SMALL = {"two": np.array(2, np.float32), "eps": np.array(1e-5, np.float32)}


def model_of(make_model: MakeModel, nodes: str, **more: Array) -> onnx.ModelProto:
    weights = {
        "s": outliers(), "o": normal(WIDTH) * 0.1, "a": normal(WIDTH, 8), "b": normal(WIDTH, 8),
        **more,
    }  # fmt: skip
    used = {
        name: value for name, value in weights.items() if f"{name})" in nodes or f"{name}," in nodes
    }
    opset = 17
    return make_model(f"(float[N,5,16] x) => (float[N,5,8] y) {{ {nodes} }}", used, opset)


def batches() -> list[dict[str, Array]]:
    return [{"x": normal(4, 5, WIDTH)} for _ in range(4)]


def smoothed(
    prepared: Prepared, feeds: list[dict[str, Array]], run: Run, alpha: str = "auto"
) -> tuple[Prepared, tuple[tuple[str, float], ...]]:
    found = rescaled(prepared, QuantizeOptions(smooth=alpha), lambda: feeds)
    onnx.checker.check_model(found.prepared.model, full_check=True)
    for fed in feeds:
        after, before = (run(one.model, fed)[0] for one in (found.prepared, prepared))
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    return found.prepared, found.smoothed


def error(prepared: Prepared, wanted: Prepared, feeds: list[dict[str, Array]], run: Run) -> float:
    options = QuantizeOptions()
    ranges = ranges_of(prepared, options, CalibrationOptions(), feeds, progress=silent)
    made = quantize(prepared, options, ranges)
    return float(
        np.mean([np.square(run(made.model, f)[0] - run(wanted.model, f)[0]).mean() for f in feeds])
    )


@pytest.mark.parametrize(
    "nodes", [NORM, WITHOUT_SHIFT, DECOMPOSED, "n = Mul(x, s)"], ids=["op", "op-1", "parts", "mul"]
)
def test_results_are_nearer_and_the_function_stays(
    make_model: MakeModel, run: Run, nodes: str
) -> None:
    text = f"{nodes} {PRODUCTS}"
    if nodes is DECOMPOSED:
        head = make_model(
            f"(float[N,5,16] x) => (float[N,5,8] y) {{ {text} }}",
            {"s": outliers(), "o": normal(WIDTH), "a": normal(WIDTH, 8), "b": normal(WIDTH, 8),
             **SMALL},
            13,
        )  # fmt: skip
    else:
        head = model_of(make_model, text)
    prepared, feeds = prepare(head), batches()

    after, found = smoothed(prepared, feeds, run)

    assert [name for name, _ in found] == ["n"]
    assert error(after, prepared, feeds, run) < 0.5 * error(prepared, prepared, feeds, run)


def test_a_layer_before_takes_the_factors(make_model: MakeModel, run: Run) -> None:
    text = "h = MatMul(x, w) n = Add(h, o) q = MatMul(n, a) k = MatMul(n, b) y = Add(q, k)"
    model = model_of(make_model, text, w=normal(WIDTH, WIDTH) * outliers(), o=outliers())

    _, found = smoothed(prepare(model), batches(), run, "0.5")

    assert found == (("n", 0.5),)


@pytest.mark.parametrize(
    "nodes",
    [
        f"{NORM} q = MatMul(n, a) t = Add(n, x) k = MatMul(t, b) y = Add(q, k)",  # a branch
        f"{NORM} g = Sigmoid(n) {PRODUCTS.replace('(n, b', '(g, b')}",
        f"{NORM} q = MatMul(n, a) z = MatMul(n, a) y = Add(q, z)",  # one weight, two readers
    ],
    ids=["sum", "other", "shared"],
)
def test_what_others_read_stays(make_model: MakeModel, run: Run, nodes: str) -> None:
    _, found = smoothed(prepare(model_of(make_model, nodes)), batches(), run)

    assert not found


def test_an_even_norm_is_left_alone(make_model: MakeModel, run: Run) -> None:
    even = {name: np.sign(normal(WIDTH, 8)) for name in ("a", "b")}
    model = model_of(make_model, f"{NORM} {PRODUCTS}", s=np.ones(WIDTH, np.float32), **even)
    before = prepare(model)

    after, found = smoothed(before, batches(), run)

    assert not found
    assert after.model.SerializeToString(deterministic=True) == before.model.SerializeToString(
        deterministic=True
    )


def test_a_constant_that_two_norms_share_parts(make_model: MakeModel, run: Run) -> None:
    text = (
        f"{NORM} q = MatMul(n, a) m = LayerNormalization<axis=-1>(x, s, o) k = MatMul(m, b) "
        "y = Add(q, k)"
    )

    after, found = smoothed(prepare(model_of(make_model, text)), batches(), run, "0.4")

    assert len(found) == 2
    norms = [n for n in after.model.graph.node if n.op_type == "LayerNormalization"]
    assert norms[0].input[1] != norms[1].input[1]


def test_the_formula() -> None:
    active, heavy = np.array([8.0, 2.0, 0.0]), np.array([0.5, 2.0, 1.0])

    found = smoothing_factors(active, heavy, 0.5)

    assert found[0] / found[1] == pytest.approx((8 / 0.5) ** 0.5 / (2 / 2) ** 0.5)
    assert found[2] == 1.0  # never active


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"smooth": "much"}, "smooth is 'much'; give off, auto or an alpha from 0 to 1"),
        ({"smooth": "1.5"}, "smooth is '1.5'; give off"),
        ({"rounding": "gtpq"}, "rounding 'gtpq' is not known; did you mean 'gptq'"),
        ({"weight_range": "least"}, "weight_range 'least' is not known.*it is max or mse"),
    ],
)
def test_options_that_cannot_be_meant(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        QuantizeOptions(**given)
