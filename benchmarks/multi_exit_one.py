"""One measurement of `multi_exit`: plain network, stages and one graph, call by call in turns."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx

from deploykit.core.measurement import Target
from deploykit.flow.exits.deliver import read_stages
from deploykit.load.artifacts import load_artifact
from deploykit.load.data import feeds
from deploykit.load.datasets import open_data
from deploykit.runtimes.dynamic.open import OpenStages
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deploykit.load.data import Array
    from deploykit.runtimes.dynamic.record import Stages

    Call = Callable[[Mapping[str, Array]], object]

WHOLE, STAGES, ONE, SPLIT = "whole", "stages", "one graph", "split"


@dataclass(frozen=True)
class Job:
    """What to measure: folders of artifacts, the data, and how much of it at once."""

    whole: str
    exits: str
    data: str
    batch: int


@dataclass(frozen=True)
class Told:
    """Mean nanoseconds by way, right answers, and how many left at each exit.

    Attributes:
        ns: of a call.
        right: of the plain network and of the stages, and of the own end of the stages' network.
        samples: that were judged.
        exits: how many left at each.
        elsewhere: how many left at another exit than a count from all exits' logits says.
        differs: of one graph, likewise against the stages.
    """

    ns: dict[str, float]
    right: dict[str, int]
    samples: int
    exits: tuple[int, ...]
    elsewhere: int
    differs: int


def do(job: Job) -> Told:
    """Every call of every way on the same inputs, one after the other, in turning order."""
    target = Target(CPU.name, threads=1)
    folder = Path(job.exits)
    record = read_stages(folder)
    stages = OpenStages(record, folder, CPU, target)
    artifact = load_artifact(folder)
    everything = CPU.open(artifact, target).direct()
    calls: dict[str, Call] = {
        WHOLE: CPU.open(load_artifact(Path(job.whole)), target).direct(),
        STAGES: stages,
        ONE: CPU.open(load_artifact(folder / "one_graph.onnx"), target).direct(),
        SPLIT: _split(record, folder, target),
    }
    data = open_data(job.data)
    taken: dict[str, list[int]] = {name: [] for name in calls}
    right = dict.fromkeys((WHOLE, STAGES, "own end"), 0)
    places: list[Array] = []
    elsewhere = differs = samples = 0
    for number, start in enumerate(range(0, len(data) - job.batch + 1, job.batch)):
        batch = data.batch(list(range(start, start + job.batch)))
        fed = feeds(batch, artifact.inputs, data.name)
        found: dict[str, object] = {}
        order = list(calls) if number % 2 else list(reversed(calls))
        for name in order:
            before = perf_counter_ns()
            found[name] = calls[name](fed)
            taken[name].append(perf_counter_ns() - before)
        labels, logits = np.asarray(batch.labels), everything(fed)
        answer, whole, one = found[STAGES], found[WHOLE], found[ONE]
        right[WHOLE] += int((whole["output"].argmax(1) == labels).sum())  # type: ignore[index]
        right[STAGES] += int((answer.logits.argmax(1) == labels).sum())  # type: ignore[attr-defined]
        right["own end"] += int((np.asarray(logits["output"]).argmax(1) == labels).sum())
        exits = answer.exits  # type: ignore[attr-defined]
        elsewhere += int((exits != _counted(record, logits)).sum())
        differs += int((exits != one["exit"]).sum())  # type: ignore[index]
        places.append(exits)
        samples += job.batch
    counts = np.bincount(np.concatenate(places), minlength=len(record.stages))
    ns = {name: float(np.mean(one)) for name, one in taken.items()}
    return Told(ns, right, samples, tuple(counts.tolist()), elsewhere, differs)


def _counted(record: Stages, logits: Mapping[str, Array]) -> Array:
    """Where samples leave by confidence, from the graph that answers at all exits; plain NumPy."""
    assert record.rule == "confidence"
    place = np.full(len(logits["output"]), len(record.stages) - 1)
    for number in reversed(range(len(record.stages) - 1)):
        stage = record.stages[number]
        scaled = np.exp(np.asarray(logits[stage.exit], np.float64) / stage.temperature)
        place[scaled.max(1) / scaled.sum(1) >= stage.threshold] = number
    return place


def _split(record: Stages, folder: Path, target: Target) -> Call:
    """The stages without their heads, so that nobody leaves: what splitting alone costs."""
    steps = []
    for stage in record.stages:
        model = onnx.load(folder / stage.file, load_external_data=False)
        if stage.gives:
            _drop(model.graph, stage.exit)
        path = folder / f"headless-{stage.file}"
        onnx.save(model, path)
        steps.append(([one.name for one in stage.takes], CPU.open(load_artifact(path), target)))
        path.unlink()
    runs = [(takes, session.direct()) for takes, session in steps]

    def call(fed: Mapping[str, Array]) -> object:
        live = dict(fed)
        for takes, run in runs:
            live.update(run({name: live[name] for name in takes}))
        return live

    return call


def _drop(graph: onnx.GraphProto, output: str) -> None:
    """Take out an output and all nodes that only lead to it."""
    kept = [value for value in graph.output if value.name != output]
    del graph.output[:]
    graph.output.extend(kept)
    needed = {value.name for value in kept}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    nodes.reverse()
    del graph.node[:]
    graph.node.extend(nodes)
    weights = [one for one in graph.initializer if one.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def main(args: Sequence[str]) -> None:
    """Read a job, print what was measured as JSON."""
    told = do(msgspec.json.decode(args[0], type=Job))
    print(msgspec.json.encode(told).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
