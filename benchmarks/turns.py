"""`python -m benchmarks.turns JOB`: artifacts called in turns in one process, on ONNX Runtime CPU.

In every round each artifact has a turn: calls that are not kept, until caches hold what it needs,
then timed ones. What slows the machine for longer than a round falls out of the ratio of two
artifacts within it. How a process happens to lay out memory does not: so there are several
processes, and the interval of a ratio is that of their medians' mean.
"""

from __future__ import annotations

import random
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from benchmarks.in_child import ONE_THREAD, ChildError, answer
from deploykit.bench import timing
from deploykit.bench.machine import machine_facts
from deploykit.check.intervals import mean_interval

_INTEGER_SETS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_TURN_NS, _LEAD_IN_NS = 60_000_000, 15_000_000


@dataclass(frozen=True, slots=True)
class Job:
    """What one process calls.

    Attributes:
        artifacts: files or folders, which take the same inputs.
        rounds: turns of each.
        seed: of the inputs and of the order in each round.
    """

    artifacts: tuple[str, ...]
    rounds: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Compared:
    """How many times faster one artifact is than another.

    Attributes:
        value: above 1: faster. Geometric mean over processes.
        low: lower bound at 95 %, Student's over processes; equal to `value` from a single one.
        high: upper bound.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Times:
    """Median latencies in nanoseconds.

    Attributes:
        processes: of each the rounds, of each the artifacts in the order of the job.
    """

    processes: tuple[tuple[tuple[float, ...], ...], ...]

    def median_ns(self, which: int) -> float:
        """Of one artifact, over all rounds."""
        return median(each[which] for rounds in self.processes for each in rounds)

    def compared(self, slow: int, fast: int) -> Compared:
        """How many times faster `fast` is than `slow`, paired by round."""
        medians = [median(each[slow] / each[fast] for each in x) for x in self.processes]
        logs = np.log(np.array(medians, np.float64))
        low, high = mean_interval(logs) or (logs[0], logs[0])
        return Compared(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)))


def in_turns(artifacts: list[Path], *, processes: int, rounds: int) -> Times:
    """Call artifacts in turns, batch 1, one thread.

    Args:
        artifacts: which take the same inputs.
        processes: one after the other.
        rounds: of each process.
    """
    names = tuple(str(path.absolute()) for path in artifacts)
    return Times(tuple(_child(Job(names, rounds, seed)) for seed in range(processes)))


def has_vnni() -> bool:
    """Whether this machine multiplies 8-bit integers four at a time: VNNI, or AMX."""
    return not _INTEGER_SETS.isdisjoint(machine_facts().instruction_sets)


def _child(job: Job) -> tuple[tuple[float, ...], ...]:
    text = msgspec.json.encode(job).decode()
    try:
        told = answer("benchmarks.turns", text, environment=ONE_THREAD)
    except ChildError as error:
        sys.exit(f"artifacts could not be measured: {error}")
    return msgspec.json.decode(told, type=tuple[tuple[float, ...], ...])


def take_turns(job: Job) -> list[list[float]]:
    """Here: for every round the median latency of each artifact, in nanoseconds."""
    from deploykit.core.measurement import Target
    from deploykit.load.artifacts import load_artifact
    from deploykit.load.synthetic import dims_of, synthetic_feeds
    from deploykit.runtimes.ort import CPU

    calls, room = [], array("q", [0]) * timing.LARGEST_SLICE
    for name in job.artifacts:
        artifact = load_artifact(Path(name))
        sizes = {dim: each.low for dim, each in dims_of(artifact.inputs).items()}
        feeds = synthetic_feeds(artifact.inputs, sizes, job.seed)
        calls.append(CPU.open(artifact, Target("ort-cpu", threads=1)).bind(feeds))
    for call in calls:
        timing.warm_up(call, time.perf_counter_ns, room, timing.WarmUpRules())
    chance = random.Random(job.seed)
    taken: list[list[float]] = []
    with timing.no_garbage_collection():
        for _ in range(job.rounds):
            row = [0.0] * len(calls)
            for which in chance.sample(range(len(calls)), len(calls)):
                timing.lead_in(calls[which], time.perf_counter_ns, _LEAD_IN_NS)
                count = timing.take(calls[which], time.perf_counter_ns, room, _TURN_NS)
                row[which] = float(median(room[:count]))
            taken.append(row)
    return taken


def main(text: str) -> None:
    """Do the job that a JSON text describes and print the medians."""
    print(msgspec.json.encode(take_turns(msgspec.json.decode(text, type=Job))).decode())


if __name__ == "__main__":
    main(sys.argv[1])
