"""Calibration beside one that stores every value; small memory changes nothing but the pieces."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.memory import Available
from deploykit.quantize.calibrate import calibrate as module
from deploykit.quantize.calibrate.calibrate import Memory, calibrate, wanted_of
from deploykit.quantize.calibrate.histogram import Histogram
from deploykit.quantize.calibrate.observe import observer
from deploykit.quantize.calibration_options import METHODS, CalibrationOptions
from deploykit.quantize.prepare.prepare import prepare
from tests.quantize.conftest import _run as run_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.quantize.calibrate.pieces import Piece
    from deploykit.quantize.calibrate.plan import Plan
    from deploykit.quantize.prepare.prepare import Prepared
    from deploykit.quantize.ranges import Range
    from tests.quantize.conftest import Array, MakeModel

NETWORK = """(float[N, 3, 24, 24] x) => (float[N, 5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu(a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2)
    s = Add(c, r)
    t = Relu(s)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    y = Gemm(f, w3)
}"""
WEIGHTS = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "w3": (16, 5)}
WANTED = ("x", "r", "c", "s", "t", "p", "y")


@pytest.fixture
def network(make_model: MakeModel) -> Prepared:
    return prepare(make_model(NETWORK, {n: _signed(s) for n, s in WEIGHTS.items()}))


def _signed(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def _batches(sizes: Sequence[int] = (4, 4, 3)) -> list[dict[str, Array]]:
    rng = np.random.default_rng(5)
    return [{"x": rng.standard_normal((n, 3, 24, 24)).astype(np.float32)} for n in sizes]


def _found(
    prepared: Prepared,
    method: str = "min-max",
    *,
    memory: Memory | None = None,
    wanted: Sequence[str] = WANTED,
    batches: Sequence[Mapping[str, Array]] | None = None,
) -> dict[str, Range]:
    return calibrate(
        prepared,
        wanted,
        _batches() if batches is None else batches,
        lambda: observer(CalibrationOptions(method, percentile=99), symmetric=False),
        memory=memory,
        threads=1,
    )


def _stored(prepared: Prepared) -> dict[str, Array]:
    """Every wanted value of all batches: the whole network runs, with all of them as outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(prepared.model)
    del model.graph.output[:]
    made = [name for name in WANTED if name != "x"]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in made
    )
    runs = [dict(zip(made, run_whole(model, feeds), strict=True)) | feeds for feeds in _batches()]
    return {name: np.concatenate([one[name].ravel() for one in runs]) for name in WANTED}


def test_min_max_is_that_of_all_values_to_the_bit(network: Prepared) -> None:
    found = _found(network)

    for name, values in _stored(network).items():
        assert (found[name].low, found[name].high) == (float(values.min()), float(values.max()))


def test_percentiles_are_those_of_all_values_within_a_bin(network: Prepared) -> None:
    found = _found(network, "percentile")

    for name, values in _stored(network).items():
        histogram = Histogram()
        histogram.add(values)
        low, high = np.percentile(values.astype(np.float64), [1, 99])
        width = histogram.grid.width
        assert abs(found[name].low - min(low, 0)) <= width
        assert abs(found[name].high - max(high, 0)) <= width


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_a_stream_gives_what_all_values_at_once_give(network: Prepared, method: str) -> None:
    found = _found(network, method)

    for name, values in _stored(network).items():
        whole = observer(CalibrationOptions(method), symmetric=False)
        whole.add(values)
        assert found[name] == whole.range(name)


@pytest.mark.parametrize("method", METHODS)
def test_pieces_change_no_range(network: Prepared, method: str) -> None:
    plans: list[Plan] = []
    cut = _found(network, method, memory=Memory(comfortable_bytes=1, planned=plans.append))

    assert len(plans[0].pieces) == len(network.model.graph.node)
    assert cut == _found(network, method)


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> int:
    """What the process has before it calibrates; as it is, it changes from test to test."""
    monkeypatch.setattr(module, "resident_bytes", lambda: 100_000_000)
    return 100_000_000


def test_a_small_limit_is_kept_by_smaller_pieces_and_changes_no_range(
    make_model: MakeModel, before: int
) -> None:
    """Weights of 36 MB, of which one layer's are in memory at a time."""
    layers = "\n".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(4))
    text = f"(float[N, 1500] h0) => (float[N, 1500] h4) {{ {layers} }}"
    prepared = prepare(make_model(text, {f"w{i}": (1500, 1500) for i in range(4)}))
    batches = [{"h0": np.ones((2, 1500), np.float32)}]
    wanted = tuple(f"h{i}" for i in range(5))
    plans: list[Plan] = []

    usual = _found(prepared, memory=Memory(planned=plans.append), wanted=wanted, batches=batches)
    first = plans.pop().prediction
    limit = before + first.more_bytes // 2
    small = _found(
        prepared, memory=Memory(limit, planned=plans.append), wanted=wanted, batches=batches
    )

    assert small == usual
    assert not plans[0].together
    assert len(plans[0].pieces) > 1
    assert plans[0].prediction.peak_bytes <= limit


def test_a_limit_below_one_batch_runs_it_in_parts(network: Prepared, before: int) -> None:
    plans: list[Plan] = []
    wide = [{"x": np.repeat(one["x"], 40, axis=0)} for one in _batches()]
    usual = _found(network, batches=wide, memory=Memory(planned=plans.append))
    whole = plans.pop()
    least = before + whole.prediction.other_bytes + 4_000_000
    found = _found(network, batches=wide, memory=Memory(least, planned=plans.append))

    assert whole.rows == 160
    assert 1 <= plans[-1].rows < 160
    for name in ("x", "r", "c", "s", "t"):  # convolutions go sample by sample
        assert found[name] == usual[name]
    assert found["y"].high == pytest.approx(usual["y"].high, rel=1e-5)


def test_a_limit_that_nothing_fits_into_says_what_is_needed(network: Prepared, before: int) -> None:
    with pytest.raises(BadInputError) as refused:
        _found(network, memory=Memory(1_000_000))

    text = str(refused.value)
    assert text.startswith("calibration needs ")
    assert " of memory for one sample at a time in the smallest pieces (" in text
    assert ", and --memory allows 1 MB: give --memory " in text
    needed = int(text.rpartition("--memory ")[2].removesuffix("MB or more"))
    assert needed * 1_000_000 > before
    _found(network, memory=Memory(needed * 1_000_000))


def test_too_small_a_machine_is_told_before_anything_runs(
    network: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Available(1_000_000, "its control group leaves")
    monkeypatch.setattr(module, "available", lambda: few)
    with pytest.raises(EnvironmentFailedError) as refused:
        _found(network)

    assert "and its control group leaves " in str(refused.value)
    assert str(refused.value).endswith("calibrate smaller inputs")


def test_batches_of_any_size_follow_each_other(network: Prepared) -> None:
    plans: list[Plan] = []
    mixed = _batches((2, 1, 5, 3))
    found = _found(network, batches=mixed, memory=Memory(planned=plans.append))
    singly = [{"x": row[None]} for batch in mixed for row in batch["x"]]

    assert [plan.rows for plan in plans] == [2]
    for name in ("x", "r", "c", "s", "t"):
        assert found[name] == _found(network, batches=singly)[name]


def test_images_of_another_size_are_planned_anew(make_model: MakeModel) -> None:
    text = NETWORK.replace("[N, 3, 24, 24]", "[N, 3, H, W]")
    prepared = prepare(make_model(text, {n: _signed(s) for n, s in WEIGHTS.items()}))
    rng = np.random.default_rng(0)
    small, large = (rng.standard_normal((1, 3, n, n)).astype(np.float32) for n in (9, 33))
    plans: list[Plan] = []
    both = [{"x": small}, {"x": large}, {"x": small}]
    found = _found(prepared, batches=both, memory=Memory(planned=plans.append))

    assert [plan.values["r"].shape for plan in plans] == [(1, 16, 9, 9), (1, 16, 33, 33)]
    one, other = (_found(prepared, batches=[{"x": x}])["t"] for x in (small, large))
    assert found["t"].high == max(one.high, other.high)


def test_operators_and_shapes_that_nobody_infers_are_looked_up(make_model: MakeModel) -> None:
    """Gelu of ONNX Runtime's own domain; and how many are not zero, which depends on the data."""
    text = """(float[N, 6] x) => (float[N, 6] h, float[M, K] y) {
        a = MatMul(x, w)
        g = com.microsoft.Gelu(a)
        h = Mul(g, g)
        n = NonZero(x)
        m = Cast <to = 1> (n)
        y = Transpose(m)
    }"""
    model = make_model(text, {"w": _signed((6, 6))})
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    prepared = prepare(model)
    x = np.arange(18, dtype=np.float32).reshape(3, 6)
    plans: list[Plan] = []
    for memory in (Memory(planned=plans.append), Memory(comfortable_bytes=1)):
        found = _found(prepared, wanted=("x", "h", "m"), batches=[{"x": x}], memory=memory)
        assert (found["m"].low, found["m"].high) == (0, 5)
        assert found["h"].high > 0
    looked = plans[0].values
    assert looked["g"].shape is None
    assert looked["g"].size_bytes == 3 * 6 * 4
    assert looked["n"].size_bytes == 3 * 2 * 5 * 8  # the first sample has one zero; times three


def test_a_fixed_batch_runs_as_it_is(make_model: MakeModel) -> None:
    prepared = prepare(
        make_model(NETWORK.replace("[N,", "[2,"), {n: _signed(s) for n, s in WEIGHTS.items()})
    )
    plans: list[Plan] = []
    _found(prepared, batches=_batches((2, 2)), memory=Memory(planned=plans.append))
    assert plans[0].rows == 0

    with pytest.raises(BadInputError, match=r"memory for one batch at a time in the smallest"):
        _found(prepared, batches=_batches((2,)), memory=Memory(1_000_000))


def test_a_value_that_is_no_number_ends_it_with_the_tensors_name(network: Prepared) -> None:
    batches = _batches()
    batches[1]["x"][2, 0, 0, 0] = np.inf
    with pytest.raises(BadInputError, match=r"^tensor 'r' has \d+ values that are NaN"):
        _found(network, wanted=("r", "t"), batches=batches)


def test_no_data_is_refused(network: Prepared) -> None:
    with pytest.raises(BadInputError, match=r"^there is no calibration data: give --calibrate"):
        _found(network, batches=[])


def test_an_operator_that_onnx_runtime_lacks_is_one_line(make_model: MakeModel) -> None:
    text = "(float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w)  y = my.own.Twist(a) }"
    prepared = prepare(make_model(text, {"w": (4, 4)}))
    with pytest.raises(BadInputError) as refused:
        _found(prepared, wanted=("x", "y"), batches=[{"x": np.ones((1, 4), np.float32)}])
    assert str(refused.value) == (
        "the network uses the custom operator my.own::Twist, which this onnxruntime does not have"
    )


def test_wanted_values_come_in_the_order_of_the_graph(network: Prepared) -> None:
    assert wanted_of(network.model.graph, {"t", "x", "a"}) == ("x", "a", "t")


def test_one_piece_is_open_at_a_time_where_memory_is_short(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Also where ONNX Runtime makes a value itself, which would hold on to its session."""
    from deploykit.quantize.calibrate.sessions import Sessions

    text = """(float[N, 700] x) => (float[N, 700] y) {
        a = MatMul(x, w0)  g = com.microsoft.Gelu(a)  b = MatMul(g, w1)  y = MatMul(b, w2)
    }"""
    model = make_model(text, {f"w{i}": (700, 700) for i in range(3)})
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    prepared = prepare(model)
    opened: list[weakref.ref[object]] = []
    open_piece = Sessions.open

    def watched(self: Sessions, piece: Piece, types: Mapping[str, int]) -> object:
        assert sum(one() is not None for one in opened) == 0
        session = open_piece(self, piece, types)
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(Sessions, "open", watched)
    plans: list[Plan] = []
    batches = [{"x": np.full((2, 700), 1e-3, np.float32)}]
    limit = Memory(before + 8_000_000, planned=plans.append)
    try:
        _found(prepared, wanted=("x", "y"), batches=batches, memory=limit)
    finally:
        monkeypatch.undo()
    assert not plans[0].together
    assert len(opened) >= len(plans[0].pieces) > 1
