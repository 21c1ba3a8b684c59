"""What `deploykit bench` adds to the time of a call, against a bare loop over the same session."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.result import Figure, Result
from deploykit.bench import timing
from deploykit.bench.schedule import StopRules
from deploykit.core.measurement import Target
from deploykit.load.artifacts import load_artifact
from deploykit.runtimes.ort import CPU

GOAL = (
    "bench's way of timing and a bare loop over the same session, interleaved in the same process, "
    "differ by at most 1 % or 3 us, for a model of about 50 us and one of about 20 ms: the median "
    "over 11 processes."
)
_PROCESSES, _QUICK_PROCESSES = 11, 3
_SHARE, _LEAST_NS = 0.01, 3_000
_SLICE_NS = 50_000_000
# Rows, width and layers of a chain of matrix products; rounds, each with a slice of both loops.
_MODELS = {"50 us": (1, 384, 4, 20), "20 ms": (64, 1024, 12, 30)}


def run(*, quick: bool) -> Result:
    """One child process a trial, the two models in turn."""
    processes = _QUICK_PROCESSES if quick else _PROCESSES
    trials: dict[str, list[tuple[float, float]]] = {name: [] for name in _MODELS}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{n}.onnx" for n, name in enumerate(_MODELS)}
        for name, (rows, width, layers, _) in _MODELS.items():
            write_chain(paths[name], rows, width, layers)
        for seed in range(processes):
            for name, path in paths.items():
                trials[name].append(_trial(path, name, seed))
    figures = [figure for name in _MODELS for figure in _figures(name, trials[name])]
    return Result(tuple(figures))


def _figures(name: str, trials: list[tuple[float, float]]) -> list[Figure]:
    bare = median(bare for bare, _ in trials)
    difference = median(added for _, added in trials)
    most = max(_SHARE * bare, _LEAST_NS)
    return [
        Figure(f"model of {name}: bare loop", bare / 1e3, "us"),
        Figure(
            f"model of {name}: bench less bare loop",
            difference / 1e3,
            "us",
            f"within {most / 1e3:.1f}",
            met=abs(difference) <= most,
        ),
    ]


def _trial(path: Path, name: str, seed: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.fidelity", str(path), name, str(seed)]
    done = subprocess.run(command, check=True, capture_output=True)
    bare, added = json.loads(done.stdout)
    return float(bare), float(added)


def _child(path: Path, name: str, seed: int) -> tuple[float, float]:
    """Median latency of the bare loop, and what bench adds to it, in nanoseconds.

    The slices of a round follow one another in an order drawn anew; what bench adds is the median
    over the rounds of the difference between the two medians.
    """
    rows, width, _, rounds = _MODELS[name]
    session = CPU.open(load_artifact(path), Target("ort-cpu", threads=1))
    feeds = {"x": np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)}
    engine = session._session  # the same session, without anything of ours
    call, room = session.bind(feeds), array("q", [0]) * timing.LARGEST_SLICE
    timing.warm_up(call, time.perf_counter_ns, room, timing.WarmUpRules())

    def take_bare() -> list[int]:
        bare: list[int] = []
        end = time.perf_counter_ns() + _SLICE_NS
        while time.perf_counter_ns() < end:
            start = time.perf_counter_ns()
            engine.run(None, feeds)
            stop = time.perf_counter_ns()
            bare.append(stop - start)
        return bare

    def take_ours() -> list[int]:
        with timing.no_garbage_collection():
            timing.lead_in(call, time.perf_counter_ns, StopRules().lead_in_ns)
            taken = timing.take(call, time.perf_counter_ns, room, _SLICE_NS)
        return list(room[:taken])

    chance = random.Random(seed)
    pairs = []
    for _ in range(rounds):
        order = chance.sample((take_bare, take_ours), 2)
        found = {take: median(take()) for take in order}
        pairs.append((found[take_bare], found[take_ours]))
    return median(bare for bare, _ in pairs), median(ours - bare for bare, ours in pairs)


def write_chain(path: Path, rows: int, width: int, layers: int) -> None:
    """An ONNX file of matrix products one after the other, with ReLU between them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weights, nodes, last = [], [], "x"
    for layer in range(layers):
        matrix = generator.standard_normal((width, width), dtype=np.float32) / np.sqrt(width)
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]))
        last = f"r{layer}"
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, [rows, width]) for end in ("x", last)
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


if __name__ == "__main__":
    print(json.dumps(_child(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
