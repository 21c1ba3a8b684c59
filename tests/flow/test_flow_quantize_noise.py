"""The noise of layers, against NumPy on all values of both networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest

from deploykit.core.progress import silent
from deploykit.flow.quantize.noise import layer_noise
from deploykit.flow.quantize.rank import products
from deploykit.flow.quantize.request import QuantizeRequest
from deploykit.flow.quantize.search import Trial
from deploykit.flow.quantize.speed import _owners, _proposals
from deploykit.flow.quantize.work import Made, Work
from deploykit.load.artifacts import load_artifact, read_graph
from deploykit.load.datasets import open_data
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SAMPLES = 24


@pytest.fixture
def work(tmp_path: Path, float_network: Callable[..., Path]) -> Work:
    return _work_on(float_network(tmp_path / "net.onnx"), tmp_path)


def _work_on(path: Path, tmp_path: Path) -> Work:
    request = QuantizeRequest(
        path, tmp_path / "out", "digits[:48]", changes={"at_once": 8}, threads=1
    )
    prepared = prepare(read_graph(path), path.parent)
    return Work(request, load_artifact(path), prepared, open_data("digits[:48]"), silent)


def _values(model: onnx.ModelProto, feed: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Every value of a graph, as it stands."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    names = [name for node in copy.graph.node for name in node.output]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options)
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def _db(value: NDArray[Any], rival: NDArray[Any]) -> float:
    noise = np.square(value.astype(float) - rival).sum()
    return float(10 * np.log10(np.square(value.astype(float)).sum() / noise))


def _noise(work: Work, made: Made) -> dict[str, Any]:
    model, quantized = made.prepared.model, made.quantized
    batches = work.batches(SAMPLES, 8)
    return dict(layer_noise(model, quantized.model, quantized.decision, None, batches, threads=1))


def test_it_is_what_numpy_finds(work: Work) -> None:
    made = work.made(Trial())
    found = _noise(work, made)

    feed = next(iter(work.batches(SAMPLES, SAMPLES)))
    float_, int8 = _values(made.prepared.model, feed), _values(made.quantized.model, feed)
    results = {"first": "b", "second": "d", "pool": "e", "head": "y"}
    assert list(found) == list(results)
    for name, value in results.items():
        rival = int8.get(f"{value}/dequantized", int8.get(value))
        assert rival is not None
        assert found[name].snr_db == pytest.approx(_db(float_[value], rival), abs=0.5), name


def test_the_first_layer_has_no_noise_but_its_own(work: Work) -> None:
    found = _noise(work, work.made(Trial()))

    assert found["first"].alone_db == pytest.approx(found["first"].snr_db, abs=1e-3)


@pytest.mark.parametrize("name", ["second", "head"])
def test_a_layer_alone_is_what_is_left_where_all_others_are_float(work: Work, name: str) -> None:
    others = tuple({"first", "second", "head"} - {name})
    whole = _noise(work, work.made(Trial()))[name]
    single = _noise(work, work.made(Trial({}, others)))[name]

    assert whole.alone_db == pytest.approx(single.snr_db, abs=0.5)
    assert whole.snr_db < whole.alone_db


@pytest.mark.parametrize("activation", ["HardSigmoid", "HardSwish"])
def test_what_is_several_nodes_in_integers_is_one_layer(
    activation: str, tmp_path: Path, float_network: Callable[..., Path]
) -> None:
    work = _work_on(float_network(tmp_path / "net.onnx", activation=activation), tmp_path)
    made = work.made(Trial())

    found = _noise(work, made)

    feed = next(iter(work.batches(SAMPLES, SAMPLES)))
    float_, int8 = _values(made.prepared.model, feed), _values(made.quantized.model, feed)
    expected = _db(float_["b"], int8["b/dequantized"])
    assert found["relu"].snr_db == pytest.approx(expected, abs=0.5)
    assert expected < found["relu"].alone_db < expected + 20  # what is before it adds noise


def test_memory_does_not_depend_on_how_many_samples_there_are(work: Work) -> None:
    """What comes out of the graph are two numbers a pair and a batch."""
    made = work.made(Trial())
    few, many = (
        layer_noise(
            made.prepared.model,
            made.quantized.model,
            made.quantized.decision,
            None,
            work.batches(samples, 8),
            threads=1,
        )
        for samples in (8, 48)
    )

    assert few.keys() == many.keys()
    assert few != many


def test_what_can_go_back_is_what_multiplies(work: Work) -> None:
    assert products(work.made(Trial())) == ("first", "second", "head")
    assert products(work.made(Trial({}, ("second",)))) == ("first", "head")


def test_every_node_that_runs_has_an_owner(work: Work) -> None:
    owners = _owners(work.made(Trial()))

    assert owners["first"] == owners["relu"] == owners["a"] == owners["b"] == "first"
    assert owners["b/QuantizeLinear"] == owners["b/DequantizeLinear"] == "first"
    assert owners["x/QuantizeLinear"] == "first"
    assert owners["y"] == "head"


def test_all_slower_layers_are_proposed_first_and_never_all_layers() -> None:
    assert list(_proposals(("a", "b", "c", "d"), 9)) == [
        ("a", "b", "c", "d"), ("a", "b"), ("a",),
    ]  # fmt: skip
    assert list(_proposals(("a", "b"), 2)) == [("a",)]
    assert list(_proposals(("a",), 1)) == []
    assert list(_proposals((), 5)) == []
