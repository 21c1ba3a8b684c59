"""Adding exits, end to end, on networks that train in seconds."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import pytest
import torch

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.measurement import Target
from deploykit.flow.exits.cost import Costs
from deploykit.flow.exits.deliver import read_stages
from deploykit.flow.exits.exits import ExitsResult, run_exits
from deploykit.flow.exits.loop import ExitsLoop, parse_latency
from deploykit.flow.exits.place import nearest_to_even
from deploykit.flow.exits.record import EXITS, Exits
from deploykit.flow.exits.request import ExitsRequest
from deploykit.flow.exits.said import Said
from deploykit.flow.exits.solve import solve
from deploykit.flow.export import ExportRequest, run_export
from deploykit.flow.prune.tune import judged
from deploykit.flow.quantize.quantize import QuantizeRequest, run_quantize
from deploykit.flow.rebuild import load_model
from deploykit.load.artifacts import load_artifact
from deploykit.load.datasets import open_data
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import state_digest
from deploykit.load.sources import Source
from deploykit.runtimes.dynamic.open import OpenStages
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from pathlib import Path

TRAIN, VAL = "digits:train[:128]", "digits:val[:60]"
INPUT = "x=N[1..8]x1x8x8"
TUNING = {"epochs": 2, "batch_size": 32, "learning_rate": 0.05}


class Add(Protocol):
    def __call__(self, out: str = "exits", **asked: Any) -> ExitsResult: ...


@pytest.fixture
def add(nets: Path) -> Add:
    return partial(_add, nets)


def _add(nets: Path, out: str = "exits", **asked: Any) -> ExitsResult:
    plain: dict[str, Any] = {
        "source": Source(f"{nets}/net.py:build", inputs=parse_inputs([INPUT])),
        "changes": {"at": ("conv1",)},
        "train": TRAIN,
        "val": VAL,
        "tuning": TUNING,
        **asked,
    }
    return run_exits(ExitsRequest(plain.pop("source"), nets / out, **plain))


def test_what_is_handed_over_is_what_was_judged(add: Add) -> None:
    result = add(max_drop=100.0)
    assert {path.name for path in result.folder.iterdir()} == {
        "plan.json", "recipe.toml", "report.json", "exits.json", "weights.safetensors",
    }  # fmt: skip
    found = records.load(result.folder / "exits.json", Exits, EXITS)
    assert found == result.exits
    assert found.met
    assert [(row.name, row.layer) for row in found.rows] == [("exit1", "conv1"), ("output", "")]
    assert np.isclose(sum(row.share for row in found.rows), 1)
    assert found.rows[0].cost_ns > 0
    model = load_model(Source(str(result.folder)))
    assert [step.name for step in model.history] == ["load", "exits"]
    assert result.report.artifact_digest == state_digest(model.module)
    # The network's own end is the first output, so that whoever looks at one looks at that.
    val = open_data(VAL)
    accuracy = judged(model, val, "", lambda *_: None).value
    assert np.isclose(accuracy, found.rows[-1].accuracy)


def test_a_frozen_network_keeps_its_weights_and_answers(add: Add, nets: Path) -> None:
    result = add(changes={"at": ("conv1", "conv2"), "frozen": True}, max_drop=100.0)
    before = load_model(Source(f"{nets}/net.py:build", inputs=parse_inputs([INPUT]))).module
    after = load_model(Source(str(result.folder))).module
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(before(x), after(x)["output"])
    assert np.isclose(result.exits.rows[-1].accuracy, result.exits.given_accuracy)


def test_a_target_that_cannot_be_met_leaves_the_nearest_and_says_so(add: Add) -> None:
    result = add(latency="1ns")
    assert not result.exits.met
    assert not result.report.passed
    assert result.exits.cost_ns == pytest.approx(min(row.cost_ns for row in result.exits.rows))


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"changes": {"at": ("conv9",)}}, "no layer 'conv9'; did you mean 'conv"),
        ({"changes": {"at": ("conv1",), "heads": 1}}, "unknown key 'heads'; did you mean 'head"),
        ({"train": ""}, "add --train DATA"),
        ({"val": ""}, "add --val DATA"),
        ({"rule": "sure"}, "no exit rule 'sure'"),
        ({"max_drop": -1.0}, "0 points or more, not -1"),
        ({"max_drop": 1.0, "latency": "5ms"}, "give one of the two"),
        ({"latency": "5"}, "no time"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    add: Add, nets: Path, asked: dict[str, Any], text: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        add(**asked)
    assert text in str(caught.value)
    assert not (nets / "exits").exists()


def test_exits_are_not_added_twice(add: Add) -> None:
    first = add()
    with pytest.raises(BadInputError, match="has exits"):
        add("again", source=Source(str(first.folder)))


def test_times_and_shares_of_it() -> None:
    assert parse_latency("5ms") == (5e6, False)
    assert parse_latency("800us") == (8e5, False)
    assert parse_latency("0.5x") == (0.5, True)


def test_places_are_spread_evenly_over_the_time() -> None:
    names = ("a", "b", "c", "d", "e")
    assert nearest_to_even(names, (0.1, 0.3, 0.35, 0.6, 0.9), 2) == ("c", "d")
    assert nearest_to_even(names, (0.1, 0.2, 0.25, 0.3, 0.34), 2) == ("d", "e")
    assert nearest_to_even(names, (0.01, 0.5, 0.98, 0.99, 1.0), 1) == ("b",)
    assert nearest_to_even(names, (0.9, 0.91, 0.92, 0.93, 0.94), 5) == names


@pytest.mark.parametrize("rule", ["confidence", "margin", "entropy", "patience"])
def test_thresholds_do_what_the_curve_says(rule: str) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 5, 400)
    hints = np.eye(5)[labels]
    logits = np.stack([draw.normal(size=(400, 5)) + k * hints for k in (1.5, 3.0, 5.0)])
    said = Said("made", ("exit1", "exit2", "output"), logits, labels)
    costs = Costs((1.0, 2.0, 4.0), 3.8)
    loop = ExitsLoop(rule=rule, max_drop=1.0)
    given = float(said.right[-1].mean())
    found = solve(said, costs, loop, given, ("a", "b"))
    assert found.met
    assert found.accuracy >= given - 0.01 - 1e-12
    assert found.cost_ns < 4.0
    assert found.cost_ns == pytest.approx(sum(row.share * row.cost_ns for row in found.rows))
    costs_of = [point.cost_ns for point in found.curve]
    accuracies = [point.accuracy for point in found.curve]
    assert costs_of == sorted(costs_of)
    assert accuracies == sorted(accuracies)
    assert found.rows[0].error_after <= found.rows[0].error_before + 0.02


def test_the_exported_folder_runs_by_its_document_alone(add: Add, nets: Path) -> None:
    added = add(changes={"at": ("conv1", "conv2")}, max_drop=100.0)
    # Thresholds of its own, such that some leave at each exit.
    found = added.exits
    rows = [replace(row, threshold=0.2, temperature=1.0) for row in found.rows[:-1]]
    rows = [replace(rows[0], threshold=_median(added.folder)), *rows[1:], found.rows[-1]]
    records.save(added.folder / "exits.json", replace(found, rows=tuple(rows)), EXITS)
    result = run_export(ExportRequest(Source(str(added.folder)), nets / "out", val=VAL))
    names = {path.name for path in result.artifact.folder.iterdir()}
    assert {"stage1.onnx", "stage2.onnx", "stage3.onnx", "stages.json", "STAGES.md"} <= names
    assert "one_graph.onnx" in names
    assert {file.path for file in result.artifact.files} == names - {"artifact.json", "report.json"}
    assert [one.name for one in result.artifact.variants] == ["stages", "one-graph", "all-exits"]
    halved = [check.name for check in result.report.checks if "halved" in check.name]
    assert {name.split()[2] for name in halved} == {"exit1", "exit2", "output"}
    assert any("in one graph" in check.name for check in result.report.checks)

    (code,) = re.findall(r"```python\n(.*?)```", (nets / "out/STAGES.md").read_text(), re.DOTALL)
    assert "deploykit" not in code
    data = open_data(VAL)
    x = np.concatenate([data.batch([k]).inputs["x"] for k in range(8)]).astype(np.float32)
    np.save(nets / "x.npy", x)
    script = f"{code}\nx = np.load('x.npy')\nlogits, exits = Stages('out').run({{'x': x}})\n"
    script += "np.save('logits.npy', logits); np.save('exits.npy', exits)\n"
    subprocess.run([sys.executable, "-c", script], cwd=nets, check=True)
    logits, exits = np.load(nets / "logits.npy"), np.load(nets / "exits.npy")

    # An independent count, from PyTorch and the record alone.
    module = load_model(Source(str(added.folder))).module
    with torch.no_grad():
        outputs = module(torch.from_numpy(x))
    place = np.full(8, 2)
    for number, name in ((1, "exit2"), (0, "exit1")):
        sure = outputs[name].softmax(1).max(1).values.numpy() >= rows[number].threshold
        place[sure] = number
    np.testing.assert_array_equal(exits, place)
    assert len(set(place.tolist())) > 1
    wanted = np.stack([outputs[name].numpy() for name in ("exit1", "exit2", "output")])
    np.testing.assert_allclose(logits, wanted[place, np.arange(8)], rtol=1e-3, atol=1e-5)


def _median(folder: Path) -> float:
    module = load_model(Source(str(folder))).module
    data = open_data(VAL)
    x = np.concatenate([data.batch([k]).inputs["x"] for k in range(8)]).astype(np.float32)
    with torch.no_grad():
        shares = module(torch.from_numpy(x))["exit1"].softmax(1).max(1).values
    return float(shares.double().median()) + 1e-6


def test_a_missing_stage_is_named(add: Add, nets: Path) -> None:
    added = add(changes={"at": ("conv1",)}, max_drop=100.0)
    found = added.exits
    rows = (replace(found.rows[0], threshold=0.5), found.rows[-1])
    records.save(added.folder / "exits.json", replace(found, rows=rows), EXITS)
    run_export(ExportRequest(Source(str(added.folder)), nets / "out"))
    stages = read_stages(nets / "out")
    (nets / "out/stage2.onnx").unlink()
    with pytest.raises(BadInputError, match=r"stage file stage2.onnx is missing"):
        OpenStages(stages, nets / "out", CPU, Target(CPU.name))


def test_integers_get_thresholds_and_stages_of_their_own(add: Add, nets: Path) -> None:
    add(changes={"at": ("conv1",)}, max_drop=60.0)
    run_export(ExportRequest(Source(str(nets / "exits")), nets / "float"))
    request = QuantizeRequest(
        nets / "float", nets / "int8", calibrate=TRAIN, val=VAL, measure=False, changes={}
    )
    result = run_quantize(request)
    names = {path.name for path in (nets / "int8").iterdir()}
    assert {"stages.json", "exits.json", "stage1.onnx", "STAGES.md"} <= names
    found = records.load(nets / "int8/exits.json", Exits, EXITS)
    before = records.load(nets / "float/exits.json", Exits, EXITS)
    assert found.rows[0].threshold != before.rows[0].threshold
    assert any(check.name.startswith("parity ort-cpu output") for check in result.report.checks)
    nodes = [
        node.op_type
        for stage in read_stages(nets / "int8").stages
        for node in onnx.load(nets / "int8" / stage.file, load_external_data=False).graph.node
    ]
    assert "QuantizeLinear" in nodes
    load_artifact(nets / "int8")  # every file is what the record says
    assert [one.role for one in result.artifact.files][:2] == ["model", "weights"]
