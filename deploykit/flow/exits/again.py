"""Exits of an artifact in a lower precision: solved again, since it says and costs other things."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx

from deploykit.check.accuracy import Accuracy, reported
from deploykit.check.metrics import metric_named
from deploykit.core import records
from deploykit.core.measurement import Target
from deploykit.core.report import Check, Verdict
from deploykit.export.write import DATA_NAME, check_file, record_artifact
from deploykit.flow.accuracy import lost_check
from deploykit.flow.exits.cost import exit_costs
from deploykit.flow.exits.deliver import add_stages, stage_checks
from deploykit.flow.exits.loop import ExitsLoop
from deploykit.flow.exits.record import EXITS, Exits
from deploykit.flow.exits.said import said_of
from deploykit.flow.exits.solve import left_scores, solve
from deploykit.flow.exits.stages import write_stages
from deploykit.flow.exits.work import real_call
from deploykit.flow.folders import EXITS_NAME
from deploykit.flow.prune.tune import judgeable
from deploykit.flow.splits import VAL
from deploykit.load.artifacts import MODEL_NAME
from deploykit.quantize.graph.write import moved
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.core.progress import Progress
    from deploykit.core.types import OnnxArtifact
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Array

_ROUNDING = 0.05
"""Integers round otherwise where a stage ends, of the outputs' size."""


def stages_again(
    original: OnnxArtifact,
    artifact: OnnxArtifact,
    folder: Path,
    splits: Splits,
    progress: Progress,
) -> tuple[OnnxArtifact, list[Check]]:
    """The stages of what was made of an artifact with exits; the same artifact where it has none.

    Args:
        original: float.
        artifact: what was made of it, in `folder`.
        folder: it is written to.
        splits: data that thresholds are solved on (`val`) and reported of; without any they stay.
        progress: told where it stands.

    Returns:
        The artifact with its stages, and their checks.

    Raises:
        BadInputError: the record of the exits is damaged.
    """
    if not (original.folder / EXITS_NAME).is_file():
        return artifact, []
    exits = records.load(original.folder / EXITS_NAME, Exits, EXITS)
    artifact = _apart(artifact, folder)
    names = [row.name for row in exits.rows]
    checks: list[Check] = []
    if judgeable(splits.val):
        exits, checks = _solved((original, artifact), folder, exits, splits, progress)
    else:
        advice = "those of the float network: add --val DATA to solve them again"
        checks.append(Check("thresholds of exits", Verdict.PASSED, advice=advice))
    made = add_stages(artifact, folder, exits)
    session = CPU.open(artifact, Target(CPU.name))
    outputs = [spec.name for spec in session.outputs]

    def reference(fed: Mapping[str, Array]) -> dict[str, Array]:
        found = dict(zip(outputs, session.bind(fed)(), strict=True))
        return {name: found[name] for name in names}

    progress("parity of the stages", None)
    checks += stage_checks(folder, reference, splits.inputs, _ROUNDING)
    session.close()
    return made, checks


def _apart(artifact: OnnxArtifact, folder: Path) -> OnnxArtifact:
    """The artifact with its weights in a file of their own, which all stages share."""
    if any(file.role == "weights" for file in artifact.files):
        return artifact
    path = folder / MODEL_NAME
    onnx.save(moved(onnx.load(path), folder, folder / DATA_NAME), path)
    check_file(path)
    return record_artifact(folder, inputs=artifact.inputs, io=artifact.io, history=artifact.history)


def _solved(
    pair: tuple[OnnxArtifact, OnnxArtifact],
    folder: Path,
    exits: Exits,
    splits: Splits,
    progress: Progress,
) -> tuple[Exits, list[Check]]:
    original, artifact = pair
    names = [row.name for row in exits.rows]
    loop = ExitsLoop(
        rule=exits.rule,
        max_drop=exits.max_drop,
        latency=exits.latency,
        batch=exits.batch,
        threads=exits.threads,
    )
    val = splits.val
    assert val is not None  # checked by the caller
    stages = write_stages(artifact, folder, names, rule=exits.rule)
    feeds = real_call(artifact.inputs, val, exits.batch)
    costs = exit_costs(stages, folder, feeds, exits.threads, original)
    for stage in stages.stages:  # those that stay are written anew
        (folder / stage.file).unlink()
    was = said_of(original, names, val, progress)
    given = float(was.right[-1].mean())
    said = said_of(artifact, names, val, progress)
    solved = solve(said, costs, loop, given, [row.layer for row in exits.rows[:-1]])
    checks = []
    for name, data in splits.named.items():
        before = said_of(original, names, data, progress).right[-1].astype(float)
        after = left_scores(said_of(artifact, names, data, progress), solved, loop.rule)
        metric = metric_named("top-1")
        now = Accuracy(data.name, metric, after)
        checks.append(reported(f"{name} with exits", now))
        limit = loop.drop if name == VAL and not loop.latency and solved.met else None
        lost = lost_check(f"{name}, exits", Accuracy(data.name, metric, before), now, limit)
        checks.append(lost)
    assert costs.whole_ns is not None  # it was asked for
    found = replace(
        exits,
        rows=solved.rows,
        curve=solved.curve,
        target=solved.target,
        met=solved.met,
        given_accuracy=given,
        accuracy=solved.accuracy,
        cost_ns=solved.cost_ns,
        whole_ns=costs.whole_ns,
        samples=len(val),
        checks=tuple(checks),
    )
    return found, checks
