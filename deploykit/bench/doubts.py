"""What makes a figure doubtful, and what to type next.

A doubt is data: the kind for programs, the text for people. It never advises what was already
done (idea: hyperfine's `output/warnings.rs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from deploykit.bench.machine import cpu_quota
from deploykit.bench.schedule import is_precise
from deploykit.core.measurement import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploykit.bench.result import Summary
    from deploykit.bench.schedule import StopRules
    from deploykit.core.measurement import Machine, Measurement

_BUSY_CPUS = 0.1
_STOLEN_SHARE = 0.005
_DRIFT_SHARE = 0.05
_DRIFT_ROUNDS = 6
_PROCESS_SHARE = 0.03
_MANY_PROCESSES = 5


class Kind(Enum):
    """What the doubt is about."""

    OTHER_LOAD = "other load"
    STOLEN = "stolen time"
    GOVERNOR = "frequency governor"
    QUOTA = "cpu quota"
    THREADS = "more threads than cpus"
    NOT_STEADY = "not steady"
    IMPRECISE = "interval too wide"
    DRIFT = "drift"
    PROCESSES = "processes differ"


@dataclass(frozen=True, slots=True)
class Doubt:
    """One reason to doubt.

    Attributes:
        kind: for programs.
        row: of the table, from 0; `None` where it concerns all.
        text: for people: what is wrong, with the figure.
        advice: what it means and what to type next; the same for all rows.
    """

    kind: Kind
    row: int | None
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known besides the rows.

    Attributes:
        machine: where it ran.
        rules: when rows had enough.
        processes: fresh processes for each row.
        other_load: CPUs that other programs kept busy, or `None`.
        stolen: share of CPU time that the hypervisor took, or `None`.
    """

    machine: Machine
    rules: StopRules
    processes: int
    other_load: float | None
    stolen: float | None


def doubts_of(
    measurements: Sequence[Measurement],
    summaries: Sequence[Summary | None],
    around: Circumstances,
) -> tuple[Doubt, ...]:
    """Every doubt: those about the machine first."""
    rows = [
        doubt
        for row, (measurement, summary) in enumerate(zip(measurements, summaries, strict=True))
        if summary is not None
        for doubt in _of_row(row, measurement, summary, around)
    ]
    return (*_of_machine(measurements, around), *rows)


def _of_machine(measurements: Sequence[Measurement], around: Circumstances) -> Iterator[Doubt]:
    machine = around.machine
    if around.other_load is not None and around.other_load > _BUSY_CPUS:
        yield Doubt(
            Kind.OTHER_LOAD, None,
            f"other programs kept {around.other_load:.1f} of this machine's CPUs busy meanwhile",
            "end them and run it again",
        )  # fmt: skip
    if around.stolen is not None and around.stolen > _STOLEN_SHARE:
        yield Doubt(
            Kind.STOLEN, None,
            f"the hypervisor gave {around.stolen:.1%} of this machine's CPU time to others",
            "a dedicated machine would be steadier",
        )  # fmt: skip
    if machine.governor not in (None, "performance"):
        yield Doubt(
            Kind.GOVERNOR, None,
            f"the frequency governor is {machine.governor!r}: the clock follows the load",
            "sudo cpupower frequency-set --governor performance",
        )  # fmt: skip
    yield from _of_threads(measurements, around)


def _of_threads(measurements: Sequence[Measurement], around: Circumstances) -> Iterator[Doubt]:
    most = max((m.target.threads or 1 for m in measurements), default=1)
    quota = cpu_quota()
    if quota is not None and quota < most:
        yield Doubt(
            Kind.QUOTA, None,
            f"this container may use {quota:g} CPUs at once: {most} threads are stopped in turns",
            f"--threads {max(1, int(quota))}" if most > 1 else "give it more",
        )  # fmt: skip
    pinned = {cpu for m in measurements for cpu in m.target.cpus}
    cores = len(pinned) or around.machine.cores
    if most > cores:
        yield Doubt(
            Kind.THREADS, None,
            f"{most} threads share {cores} CPUs",
            f"--threads {cores}" + (" or more --cpus" if pinned else ""),
        )  # fmt: skip


def _of_row(
    row: int, measurement: Measurement, summary: Summary, around: Circumstances
) -> Iterator[Doubt]:
    rules = around.rules
    if not all(run.steady for run in measurement.processes):
        spent = max(run.warmup_ns for run in measurement.processes)
        yield Doubt(
            Kind.NOT_STEADY, row,
            f"{spent / 1e9:.1f} s of warm-up", "latencies had not settled by then",
        )  # fmt: skip
    if measurement.status is Status.BUDGET_SPENT:
        yield Doubt(
            Kind.IMPRECISE, row, _imprecise(summary, rules),
            f"not ±{100 * rules.precision:.3g}% from {rules.min_count} calls or more, after the "
            f"budget of {rules.budget_ns / 1e9:g} s: --budget {4 * rules.budget_ns / 1e9:g}s",
        )  # fmt: skip
    drift = _drift(measurement)
    if abs(drift) > _DRIFT_SHARE:
        yield Doubt(
            Kind.DRIFT, row,
            f"{abs(drift):.0%} {'slower' if drift > 0 else 'faster'} in the second half",
            "heat, clock or other load; the speed is paired by round and holds",
        )  # fmt: skip
    spread = _process_spread(measurement)
    if spread > _PROCESS_SHARE:
        yield Doubt(
            Kind.PROCESSES, row,
            f"medians of its processes differ by {spread:.0%}",
            "more than one process alone tells"
            + ("" if around.processes >= _MANY_PROCESSES else f": --processes {_MANY_PROCESSES}"),
        )  # fmt: skip


def _imprecise(summary: Summary, rules: StopRules) -> str:
    p50 = summary.p50
    if p50 is None or p50.low_ns is None or p50.high_ns is None:
        why = "too few" if p50 is None else "in slices too few or too unlike"
        return f"{summary.count} calls, {why} for an interval"
    if is_precise(p50, rules.precision):
        return f"{summary.count} calls"
    wide = max(p50.value_ns - p50.low_ns, p50.high_ns - p50.value_ns) / p50.value_ns
    return f"the median is known to ±{wide:.1%}"


def _drift(measurement: Measurement) -> float:
    """Change of the median from the first half of the rounds to the second."""
    latency = np.array(measurement.samples.latency_ns)
    rounds = np.array(measurement.samples.round)
    if rounds.max() + 1 < _DRIFT_ROUNDS:
        return 0.0
    early = rounds < (rounds.max() + 1) / 2
    before = float(np.median(latency[early]))
    return float(np.median(latency[~early])) / before - 1


def _process_spread(measurement: Measurement) -> float:
    latency = np.array(measurement.samples.latency_ns)
    process = np.array(measurement.samples.process)
    medians = [float(np.median(latency[process == p])) for p in np.unique(process)]
    return max(medians) / min(medians) - 1
