"""The stages of an artifact that answers at every exit: cut, and written beside it.

Weights stay in the one file that the artifact has them in; a stage names its places there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from deploykit.core import records
from deploykit.core.measurement import Target
from deploykit.export.exits.one_graph import one_graph
from deploykit.export.exits.stages import stage_models
from deploykit.export.write import check_file
from deploykit.flow.folders import ONE_GRAPH_NAME, STAGES_NAME
from deploykit.load.artifacts import load_artifact, read_graph
from deploykit.runtimes.dynamic.record import STAGES, StageRecord, Stages, Tensor
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deploykit.core.types import OnnxArtifact
    from deploykit.export.exits.crossing import Run
    from deploykit.load.data import Array

_PROBE = "probe.onnx"


def write_stages(
    artifact: OnnxArtifact,
    folder: Path,
    exits: Sequence[str],
    *,
    rule: str,
    thresholds: Sequence[float | None] = (),
    temperatures: Sequence[float] = (),
) -> Stages:
    """Cut the graph, write a file for each stage, the record of them, and all in one graph.

    Args:
        artifact: answers at every exit.
        folder: to write to: where the artifact's external data lies, if it has any.
        exits: names of outputs, in order; the last is the network's own end.
        rule: by which samples leave.
        thresholds: one each but the last; an exit without one is left out. Empty: all exits stay,
            and nobody leaves there.
        temperatures: one each but the last.

    Raises:
        BadInputError: what passes between two stages cannot be taken apart by samples.
    """
    given: dict[str, tuple[float | None, float]] = {
        name: (threshold, temperature)
        for name, threshold, temperature in zip(exits, thresholds, temperatures, strict=False)
        if threshold is not None
    } or (dict.fromkeys(exits[:-1], (None, 1.0)) if not thresholds else {})
    kept = [*given, exits[-1]]
    model = read_graph(artifact.model_path)
    made = stage_models(model, kept, artifact.inputs, runner(folder))
    rows = []
    for number, stage in enumerate(made):
        file = f"stage{number + 1}.onnx"
        onnx.save(stage.model, folder / file)
        check_file(folder / file)
        threshold, temperature = given.get(stage.exit, (None, 1.0))
        takes, gives = (
            tuple(Tensor(name, stage.axes[name]) for name in names)
            for names in (stage.takes, stage.gives)
        )
        rows.append(StageRecord(file, stage.exit, takes, gives, threshold, temperature))
    record = Stages(rule, tuple(rows))
    records.save(folder / STAGES_NAME, record, STAGES)
    if thresholds and len(made) > 1:
        onnx.save(one_graph(made, record), folder / ONE_GRAPH_NAME)
        check_file(folder / ONE_GRAPH_NAME)
    return record


def runner(folder: Path) -> Run:
    """Runs a model in ONNX Runtime that has its external data in this folder."""

    def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
        path = folder / _PROBE
        onnx.save(model, path)
        try:
            session = CPU.open(load_artifact(path), Target(CPU.name))
            found = session.bind(feeds)()
            names = [spec.name for spec in session.outputs]
            session.close()
        finally:
            path.unlink()
        return dict(zip(names, found, strict=True))

    return run
