"""How much our training loop costs beside a bare one, and what a second process gives.

Epochs of both loops take turns in one process, and time is the processor's, so that what else the
machine does falls out of their ratio; there are several processes, because how one happens to lay
out memory decides a few percent. Judging and keeping, which the bare loop has not, are told apart.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from math import hypot
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from benchmarks.in_child import ChildError, answer
from benchmarks.result import Figure, Result
from benchmarks.training_one import BARE, OURS, RESNET_18, TURNS, Job, Took, network_of
from deploykit.check.intervals import mean_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    _Weights: TypeAlias = Mapping[str, Tensor]

GOAL = (
    "Our training loop learns from at least 0.97x the images per second of a bare PyTorch loop "
    "with the same network, data and optimizer, with at most 1.1x its memory; two processes give "
    "the weights of one within rounding; the memory of a step is foreseen within 20 %."
)
_NETWORKS = ("fashion_separable", "fashion_resnet")
_LEAST, _MOST_MEMORY, _MOST_APART, _MOST_WRONG = 0.97, 1.1, 0.01, 20.0
_IMAGES, _EPOCHS, _PROCESSES = 640, 15, 3
_QUICK_IMAGES, _QUICK_EPOCHS = 256, 3
_STEPS = (("fashion_resnet", 512), (RESNET_18, 64))
_MB = 1e6
_FEW_STEPS = 4


def run(*, quick: bool) -> Result:
    """Speed, then memory, then several processes."""
    figures: list[Figure] = []
    for network in _NETWORKS[:1] if quick else _NETWORKS:
        figures += _speed(Job(TURNS, network, 1, 1), quick=quick)
        figures += [] if quick else _memory(network)
    if not quick:
        figures += _speed(Job(TURNS, _NETWORKS[0], 1, 1, augmented=True), quick=quick)
        figures += _speed(Job(TURNS, _NETWORKS[1], 1, 1, precision="bfloat16"), quick=quick)
        figures += [_foreseen(network, batch) for network, batch in _STEPS]
    figures += _several(_NETWORKS[0], quick=quick)
    return Result(tuple(figures))


def _speed(kind: Job, *, quick: bool) -> Iterator[Figure]:
    """Ours by the bare loop's, in pairs of epochs; only plain training is held to the goal."""
    images, epochs = (_QUICK_IMAGES, _QUICK_EPOCHS) if quick else (_IMAGES, _EPOCHS)
    job = replace(kind, images=images, epochs=epochs)
    plain = not job.augmented and job.precision == "float32"
    processes = [_took(job) for _ in range(_PROCESSES if plain and not quick else 1)]
    more = ["shifted and mirrored"] * job.augmented + ["bfloat16"] * (job.precision == "bfloat16")
    name = ", ".join([job.network, *more])
    for said, spent in (
        ("ours", [one for each in processes for one in each.ours]),
        ("bare", [one for each in processes for one in each.bare]),
    ):
        yield Figure(f"{name}: {said}", images / median(x.cpu_s for x in spent), "images/s of CPU")
    found, low, high = _ratio(processes)
    held = plain and not quick
    yield Figure(
        f"{name}: ours by bare, {low:.3f} to {high:.3f}",
        found,
        "x",
        f"at least {_LEAST:g}" if held else "",
        met=not held or found >= _LEAST,
    )
    kept = median(x.cpu_s for each in processes for x in each.judged)
    yield Figure(f"{name}: judging 512 images and keeping, each epoch", kept, "s")


def _ratio(processes: Sequence[Took]) -> tuple[float, float, float]:
    """Geometric mean of the processes' median ratios, and its interval at 95 %.

    Of a single process: its median, and the interval of its pairs' mean.
    """
    pairs = [
        [np.log(b.cpu_s / a.cpu_s) for a, b in zip(each.ours, each.bare, strict=True)]
        for each in processes
    ]
    logs = np.array([median(each) for each in pairs] if len(pairs) > 1 else pairs[0], np.float64)
    middle = float(logs.mean() if len(pairs) > 1 else np.median(logs))
    low, high = mean_interval(logs) or (middle, middle)
    return float(np.exp(middle)), float(np.exp(low)), float(np.exp(high))


def _memory(network: str) -> Iterator[Figure]:
    """Peaks of processes that train in one way alone, beyond their imports."""
    ours, bare = (_took(Job(way, network, 2, _IMAGES)).peak_bytes for way in (OURS, BARE))
    yield Figure(f"{network}: our peak", ours / _MB, "MB")
    yield Figure(f"{network}: bare peak", bare / _MB, "MB")
    goal = f"at most {_MOST_MEMORY:g}"
    yield Figure(
        f"{network}: our peak by the bare one",
        ours / bare,
        "x",
        goal,
        met=ours <= _MOST_MEMORY * bare,
    )


def _foreseen(network: str, batch: int) -> Figure:
    """How far the memory of a step was from what it was foreseen to be."""
    took = _took(Job(OURS, network, 1, 2 * batch, batch=batch))
    wrong = 100 * (took.foreseen_bytes / took.step_bytes - 1)
    return Figure(
        f"{network}, a step of {batch}: {took.step_bytes / _MB:.0f} MB, foreseen with an error of",
        wrong,
        "%",
        f"within {_MOST_WRONG:g}",
        met=abs(wrong) <= _MOST_WRONG,
    )


def _several(network: str, *, quick: bool) -> Iterator[Figure]:
    """One process with one thread and with two, and two with one each: clock time, and weights."""
    import torch

    images = _QUICK_IMAGES if quick else 4 * _IMAGES
    ways = [("one process, one thread", 1, 1), ("two processes, one thread each", 2, 1)]
    ways += [] if quick else [("one process, two threads", 1, 2)]
    speed, weights = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        few = Job(OURS, network, 1, _FEW_STEPS * 128)
        start = network_of(few).state_dict()
        for name, processes, threads in ways:
            path = Path(folder) / f"{processes}-{threads}.pt"
            took = _took(Job(OURS, network, 3, images), processes, threads)
            speed[name] = images / median(x.wall_s for x in took.ours)
            # Few steps: rounding grows from step to step, in any two orders of adding up.
            _took(replace(few, weights=str(path)), processes, threads)
            weights[name] = torch.load(path, weights_only=True)
    (alone, *_), *others = ways
    yield Figure(f"{network}: {alone}", speed[alone], "images/s")
    for name, processes, _ in others:
        yield Figure(f"{network}: {name}, by that", speed[name] / speed[alone], "x")
        apart = _apart(weights[alone], weights[name], start)
        held = processes > 1
        yield Figure(
            f"{network}: {name}, {_FEW_STEPS} steps: how far the weights are from one's",
            apart,
            "of the way that they went",
            f"at most {_MOST_APART:g}" if held else "",
            met=not held or apart <= _MOST_APART,
        )


def _apart(one: _Weights, other: _Weights, start: _Weights) -> float:
    """How far two trained networks are from each other, by how far training moved the first."""
    return _distance(one, other) / _distance(one, start)


def _distance(one: _Weights, other: _Weights) -> float:
    """Over all weights and statistics, Euclidean."""
    return hypot(*(float((one[name].double() - other[name].double()).norm()) for name in one))


def _took(job: Job, processes: int = 1, threads: int = 1) -> Took:
    text = msgspec.json.encode(job).decode()
    module, arguments = "benchmarks.training_one", [text]
    if processes > 1:
        spread = ["--standalone", "--nproc-per-node", str(processes), "--module"]
        module, arguments = "torch.distributed.run", [*spread, module, text]
    try:
        told = answer(module, *arguments, environment={"OMP_NUM_THREADS": str(threads)})
    except ChildError as error:
        sys.exit(f"{job.network} could not be trained: {error}")
    return msgspec.json.decode(told, type=Took)
