"""An exported network with exits: its stages beside it, proved exit by exit, and recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deploykit.check.parity import compare
from deploykit.core import records
from deploykit.core.measurement import Target
from deploykit.core.report import Verdict
from deploykit.core.types import File, Variant
from deploykit.flow.exits.record import EXITS, Exits
from deploykit.flow.exits.stages import write_stages
from deploykit.flow.exits.told import document
from deploykit.flow.folders import DOCUMENT_NAME, EXITS_NAME, ONE_GRAPH_NAME, STAGES_NAME
from deploykit.flow.plans import has_exits
from deploykit.flow.verify import fed_sizes, parity_sizes, real_feeds, sizes_text
from deploykit.load.artifacts import RECORD_NAME, load_artifact
from deploykit.runtimes.dynamic.open import OpenStages
from deploykit.runtimes.dynamic.record import STAGES, Stages
from deploykit.runtimes.dynamic.rules import CONFIDENCE, PATIENCE, signal
from deploykit.runtimes.dynamic.staged import Answer
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from deploykit.core.report import Check
    from deploykit.core.types import OnnxArtifact
    from deploykit.load.data import Array, Data
    from deploykit.load.sources import Source

    Reference = Callable[[Mapping[str, Array]], Mapping[str, Array]]

STAGES_VARIANT, ONE_GRAPH_VARIANT, ALL_VARIANT = "stages", "one-graph", "all-exits"


def exits_of(source: Source) -> Exits | None:
    """What was found when exits were added to a network; `None` where it has none.

    Args:
        source: resolved.

    Raises:
        BadInputError: it has, and the record is missing or damaged.
    """
    if not has_exits(source):
        return None
    return records.load(source.plans[-1].parent / EXITS_NAME, Exits, EXITS)


def add_stages(artifact: OnnxArtifact, folder: Path, exits: Exits) -> OnnxArtifact:
    """Write the stages, their record and the document that says how to run them.

    Args:
        artifact: answers at every exit; written to `folder`.
        folder: of the artifact.
        exits: thresholds and temperatures.

    Raises:
        BadInputError: what passes between two stages cannot be taken apart by samples.
    """
    rows = exits.rows
    stages = write_stages(
        artifact,
        folder,
        [row.name for row in rows],
        rule=exits.rule,
        thresholds=[row.threshold for row in rows[:-1]],
        temperatures=[row.temperature for row in rows[:-1]],
    )
    text = document(stages, artifact)
    records.save(folder / EXITS_NAME, exits, EXITS)
    (folder / DOCUMENT_NAME).write_text(text, encoding="utf-8")
    return recorded(artifact, folder, stages)


def recorded(artifact: OnnxArtifact, folder: Path, stages: Stages) -> OnnxArtifact:
    """The artifact with the stages among its files and as a variant; its record is written."""
    own = [stage.file for stage in stages.stages]
    roles = {**dict.fromkeys(own, "stage"), **dict.fromkeys((STAGES_NAME, EXITS_NAME), "record")}
    roles[DOCUMENT_NAME] = "document"
    if (folder / ONE_GRAPH_NAME).is_file():
        roles[ONE_GRAPH_NAME] = "graph"
    files = tuple(
        File(name, records.sha256_of(folder / name), (folder / name).stat().st_size, role)
        for name, role in roles.items()
    )
    weights = [file.path for file in artifact.files if file.role == "weights"]
    variants = (
        Variant(STAGES_VARIANT, (STAGES_NAME, *own, *weights), {"rule": stages.rule}),
        *(
            Variant(ONE_GRAPH_VARIANT, (name, *weights), {"rule": stages.rule})
            for name in roles
            if name == ONE_GRAPH_NAME
        ),
        Variant(ALL_VARIANT, (artifact.files[0].path, *weights)),
    )
    whole = replace(artifact, files=(*artifact.files, *files), variants=variants)
    records.save(folder / RECORD_NAME, whole, records.ONNX_ARTIFACT)
    return whole


def read_stages(folder: Path) -> Stages:
    """The record of the stages in a folder.

    Raises:
        BadInputError: there is none, or it is damaged.
    """
    return records.load(folder / STAGES_NAME, Stages, STAGES)


def stage_checks(
    folder: Path, reference: Reference, data: Data | None, limit: float | None
) -> list[Check]:
    """Run the stages while samples leave, and compare each with what its exit says in PyTorch.

    Three ways each at batch 1, an odd batch and the largest: as the artifact runs; with thresholds
    such that about half of the samples leave at each exit, so that all go on in company that
    thins out; and with nobody leaving.

    Args:
        folder: of the artifact.
        reference: all exits by name, from inputs by name; eager PyTorch.
        data: real inputs; made-up ones where there are none.
        limit: on the relative difference, or `None` for the one of the outputs' type.
    """
    stages = read_stages(folder)
    specs = load_artifact(folder).inputs
    checks: list[Check] = []
    opened = OpenStages(stages, folder, CPU, Target(CPU.name))
    names = [stage.exit for stage in stages.stages]
    for sizes in parity_sizes(specs):
        fed = real_feeds(specs, sizes, data)
        wanted = reference(fed)
        sized = sizes_text(fed_sizes(specs, fed))
        for way, record in _ways(stages, wanted):
            answer = opened.following(record)(fed)
            for number, name in enumerate(names):
                title = f"parity {CPU.name} {name} {way} {sized}"
                checks += _compared(title, number, wanted[name], answer, limit)
        if (folder / ONE_GRAPH_NAME).is_file():
            answer = _in_one_graph(folder, fed)
            for number, name in enumerate(names):
                title = f"parity {CPU.name} {name} in one graph, {sized}"
                checks += _compared(title, number, wanted[name], answer, limit)
    opened.close()
    return checks


def _in_one_graph(folder: Path, fed: Mapping[str, Array]) -> Answer:
    session = CPU.open(load_artifact(folder / ONE_GRAPH_NAME), Target(CPU.name))
    logits, exits = session.bind(fed)()
    session.close()
    return Answer(logits, np.asarray(exits, np.int64))


def _ways(stages: Stages, wanted: Mapping[str, Array]) -> list[tuple[str, Stages]]:
    """As it runs, halving at every exit, and nobody leaving."""
    early = stages.stages[:-1]
    nobody = replace(
        stages, stages=(*(replace(one, threshold=None) for one in early), stages.stages[-1])
    )
    rule = CONFIDENCE if stages.rule == PATIENCE else stages.rule
    halved = tuple(
        replace(one, threshold=_median(rule, wanted[one.exit], one.temperature)) for one in early
    )
    halves = Stages(rule, (*halved, stages.stages[-1]))
    return [("as it runs,", stages), ("halved,", halves), ("to the end,", nobody)][
        : 3 if early else 1
    ]


def _median(rule: str, logits: Array, temperature: float) -> float:
    found = np.sort(signal(rule, np.asarray(logits, np.float32), temperature).astype(np.float64))
    middle = len(found) // 2
    # Between two samples, so that a rounding moves nobody to the other side.
    halfway = (found[middle] + found[middle - 1]) / 2 if middle else found[0]
    return float(np.clip(halfway, 0.0, 1.0))


def _compared(
    name: str, number: int, wanted: Array, answer: Answer, limit: float | None
) -> Sequence[Check]:
    """One check of those that left there; none where nobody did."""
    mine = answer.exits == number
    if not mine.any():
        return ()
    return (compare(name, {"logits": wanted[mine]}, {"logits": answer.logits[mine]}, limit),)


def failed(checks: Sequence[Check]) -> Check | None:
    """The first that has not passed."""
    return next((check for check in checks if check.verdict is not Verdict.PASSED), None)
