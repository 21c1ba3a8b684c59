"""One graph with `If` against the controller of the stages, batch by batch, for every rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest

from deploykit.export.exits.one_graph import one_graph
from deploykit.export.exits.stages import stage_models
from deploykit.runtimes.dynamic.record import StageRecord, Stages, Tensor
from deploykit.runtimes.dynamic.rules import PATIENCE, signal
from deploykit.runtimes.dynamic.staged import run_stages
from tests.export.test_export_stages import CASES, _exported, _run

if TYPE_CHECKING:
    from pathlib import Path

EXITS = ("exit1", "exit2", "output")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rule", ["confidence", "margin", "entropy", "patience"])
def test_one_graph_answers_as_the_stages_do(name: str, rule: str, tmp_path: Path) -> None:
    build, (shape, heads) = CASES[name]
    model, specs = _exported(build(), shape, heads, tmp_path)
    draw = np.random.default_rng(0)
    x = (3 * draw.normal(size=(9, *shape))).astype(np.float32)
    logits = _run(model, {"x": x})
    thresholds = [
        2.0 if rule == PATIENCE else float(np.median(signal(rule, logits[name], 0.7)) + 1e-6)
        for name in EXITS[:2]
    ]
    models = stage_models(model, EXITS, specs, _run)
    record = Stages(
        rule,
        tuple(
            StageRecord(
                f"{k}.onnx",
                one.exit,
                tuple(Tensor(x, one.axes[x]) for x in one.takes),
                tuple(Tensor(x, one.axes[x]) for x in one.gives),
                None if k == 2 else thresholds[k],
                0.7,
            )
            for k, one in enumerate(models)
        ),
    )
    stages = [lambda feeds, one=one: _run(one.model, feeds) for one in models]
    whole = one_graph(models, record)
    onnx.checker.check_model(whole, full_check=True)
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    places = set()
    for rows in ([*range(9)], [0], [3], [5], [7, 8], [1, 2, 3, 4]):
        wanted = run_stages(record, stages, {"x": x[rows]})
        output, exits = session.run(["output", "exit"], {"x": x[rows]})
        np.testing.assert_array_equal(exits, wanted.exits)
        assert np.allclose(output, wanted.logits, rtol=1e-4, atol=1e-5)
        places |= set(exits.tolist())
    assert len(places) >= 2 or rule == PATIENCE  # heads that have learnt nothing seldom agree
