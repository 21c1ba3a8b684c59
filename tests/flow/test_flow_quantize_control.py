"""Accuracy control on a network that INT8 breaks in one place, on purpose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.progress import silent
from deploykit.core.report import Verdict
from deploykit.flow.quantize.layers import GIVEN_BACK
from deploykit.flow.quantize.quantize import QuantizeRequest, run_quantize
from deploykit.flow.quantize.rank import ranked
from deploykit.flow.quantize.record import QUANTIZATION, QUANTIZATION_NAME, Quantization
from deploykit.flow.quantize.search import Trial
from deploykit.flow.quantize.work import Work
from deploykit.load.artifacts import load_artifact, read_graph
from deploykit.load.datasets import open_data
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, DEPTH = 8, 5
OUTLIER = 3000.0
CULPRITS = {"conv1", "conv2"}
"""The value between them has one huge channel: on its grid all others are zero."""
DATA = "digits[:48]"
VAL_ROWS = range(100, 400)


def hard_network(path: Path) -> Path:
    """Convolutions in a row; the channel is an output as well, so that nothing may rescale it."""
    rng = np.random.default_rng(1)
    constants: dict[str, NDArray[Any]] = {}
    nodes: list[onnx.NodeProto] = []
    value, channels = "x", 1
    for number in range(DEPTH):
        scale = np.sqrt(2 / (9 * channels))
        constants[f"w{number}"] = rng.normal(size=(WIDTH, channels, 3, 3)) * scale
        constants[f"b{number}"] = rng.normal(size=WIDTH) * 0.1
        inputs = [value, f"w{number}", f"b{number}"]
        name, made = f"conv{number}", [f"c{number}"]
        nodes.append(helper.make_node("Conv", inputs, made, name, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], f"relu{number}"))
        value, channels = f"r{number}", WIDTH
    constants["w1"][0] *= OUTLIER
    constants["b1"][0] = 0.5 * OUTLIER
    constants["w2"][:, 0] /= OUTLIER
    constants["head_w"] = rng.normal(size=(10, WIDTH * 64)) / 8
    nodes.append(helper.make_node("Flatten", [value], ["flat"], "flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "head_w"], ["y"], "head", transB=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10]),
            helper.make_tensor_value_info("r1", TensorProto.FLOAT, ["N", WIDTH, 8, 8]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> QuantizeRequest:
    """The float network makes no error, because it says itself what is right."""
    folder = tmp_path_factory.mktemp("hard")
    source = hard_network(folder / "net.onnx")
    images = open_data("digits").batch(list(VAL_ROWS)).inputs["x"]
    logits = onnxruntime.InferenceSession(source).run(["y"], {"x": images})[0]
    np.savez(folder / "val.npz", x=images, labels=logits.argmax(axis=1))
    return QuantizeRequest(
        source, folder / "out", DATA, val=str(folder / "val.npz"), measure=False, threads=1
    )


@pytest.mark.slow
def test_int8_breaks_it_and_the_search_gives_back_what_does(
    hard: QuantizeRequest, tmp_path: Path
) -> None:
    broken = run_quantize(replace(hard, out=tmp_path / "broken")).report.checks[-1].value
    result = run_quantize(replace(hard, out=tmp_path / "mended", max_drop=3.0))
    record = result.quantization

    assert broken is not None
    assert broken > 10
    lost = result.report.checks[-1]
    assert lost.verdict is Verdict.PASSED
    assert lost.limit == 3.0
    assert {row.node for row in record.layers if row.kept_float == GIVEN_BACK} == CULPRITS
    assert {row.node for row in record.layers if not row.kept_float} >= {
        "conv0", "conv3", "conv4", "head",
    }  # fmt: skip
    assert record.tries[0].lost == pytest.approx(broken)
    assert not record.tries[0].met
    assert any(row.met and set(row.floats) == CULPRITS for row in record.tries)
    assert record.control.startswith(f"met after {len(record.tries)} evaluations (")
    assert set(result.artifact.history[-1].options["exclude"]) >= CULPRITS  # type: ignore[arg-type]  # names
    assert record == records.load(
        tmp_path / "mended" / QUANTIZATION_NAME, Quantization, QUANTIZATION
    )


def test_a_large_output_does_not_hide_which_layers_do_harm(hard: QuantizeRequest) -> None:
    """The network's second output is the huge channel itself, before which little is wrong."""
    prepared = prepare(read_graph(hard.source), hard.source.parent)
    data, artifact = open_data(hard.calibrate), load_artifact(hard.source)
    work = Work(hard, artifact, prepared, data, silent, searching=True)

    assert set(ranked(work, Trial())[:2]) == CULPRITS


def test_too_much_lost_leaves_nothing_and_names_the_nearest(
    hard: QuantizeRequest, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    with pytest.raises(CheckFailedError) as raised:
        run_quantize(replace(hard, out=out, max_drop=3.0, budget="1"))

    said = str(raised.value)
    assert said.startswith("too much is lost: ")
    assert "allowed is 3, by the nearest of 1 evaluation (as asked), the budget of 1" in said
    assert "nothing was written; --force hands the nearest over" in said
    assert "\n" not in said
    assert not out.exists()


def test_force_hands_the_nearest_over_and_says_that_it_failed(
    hard: QuantizeRequest, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run_quantize(replace(hard, out=out, max_drop=3.0, budget="1", force=True))

    assert (out / "model.onnx").is_file()
    assert result.report.checks[-1].verdict is Verdict.FAILED
    assert not result.report.passed
    assert result.quantization.control.startswith("too much is lost: ")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"val": ""}, "max_drop 1 is judged on validation data, and none is given: add --val"),
        ({"val": "{folder}/plain.npz"}, "max_drop 1 is judged by labels, and "),
        ({"budget": "a lot"}, "budget 'a lot' is no number of evaluations"),
    ],
)
def test_a_limit_that_nothing_can_be_held_against(
    hard: QuantizeRequest, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    np.savez(tmp_path / "plain.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    change = {name: value.format(folder=tmp_path) for name, value in change.items()}

    with pytest.raises(BadInputError) as raised:
        run_quantize(replace(hard, out=tmp_path / "out", max_drop=1.0, **change))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.fixture
def large(hard: QuantizeRequest, tmp_path: Path) -> QuantizeRequest:
    """More validation data than is looked at where a part of it tells."""
    with np.load(hard.val) as known:
        x, labels = (np.concatenate([known[name]] * 11)[:3200] for name in ("x", "labels"))
    np.savez(tmp_path / "large.npz", x=x, labels=labels)
    return replace(hard, val=str(tmp_path / "large.npz"), out=tmp_path / "out", max_drop=1.0)


def test_what_is_hopeless_is_seen_from_a_part_of_the_data(large: QuantizeRequest) -> None:
    broken = run_quantize(replace(large, budget="1", force=True))
    assert [one.samples for one in broken.quantization.tries] == [1067]
    assert broken.report.checks[-1].verdict is Verdict.FAILED  # on all of it


def test_what_passes_was_judged_on_all_of_the_data(large: QuantizeRequest) -> None:
    mended = run_quantize(replace(large, changes={"exclude": tuple(CULPRITS)}, max_drop=5.0))
    assert [one.samples for one in mended.quantization.tries] == [3200]
    assert mended.quantization.tries[0].met
