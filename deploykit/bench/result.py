"""The record of a benchmark: raw samples, what they sum up to, and what makes them doubtful."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from deploykit.bench.doubts import Doubt  # noqa: TC001  (msgspec reads the annotations)
from deploykit.bench.schedule import StopRules, block_number
from deploykit.bench.statistics import (
    MEDIAN_CONFIDENCE,
    TAIL_CONFIDENCE,
    Quantile,
    Ratio,
    paired_ratio,
    quantile,
)
from deploykit.core.errors import ExitStatus
from deploykit.core.measurement import Measurement, Status
from deploykit.core.records import Schema

if TYPE_CHECKING:
    from collections.abc import Sequence

BENCH = Schema("deploykit/bench")


@dataclass(frozen=True, slots=True)
class Summary:
    """What the samples of one measurement sum up to; computed from them, never stored alone.

    Attributes:
        p50: the median, at 95 % confidence.
        p90: at 99 % confidence, or `None` from fewer than 51 samples.
        p99: at 99 % confidence, or `None` from fewer than 528 samples.
        mean_ns: of all calls.
        count: calls.
        rounds: that it took part in.
        throughput_per_second: samples (batch x calls) by the time inside calls.
        load_ns: median over its processes.
        first_ns: median over its processes.
        peak_rss_bytes: highest of its processes, or `None`.
        model_bytes: highest of its processes, or `None`.
        speed: how many times faster than the first row that did not fail, a sample of the batch
            against a sample, paired by round; `None` for that row itself.
    """

    p50: Quantile | None
    p90: Quantile | None
    p99: Quantile | None
    mean_ns: float
    count: int
    rounds: int
    throughput_per_second: float
    load_ns: float
    first_ns: float
    peak_rss_bytes: int | None
    model_bytes: int | None
    speed: Ratio | None


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One run of `deploykit bench`.

    Attributes:
        rules: when a case had enough.
        processes: fresh processes for each case.
        seed: of the order of turns and of made-up inputs.
        measurements: one a row, with every raw sample.
        summaries: one a row; `None` for a row that failed.
        doubts: what makes the figures doubtful.
        inputs: where the inputs came from: a data set, or "made up from seed 0".
        other_load: CPUs that other programs kept busy meanwhile, or `None`.
        exit_statuses: one a row: 0, or what kind of error it failed with.
        stolen: share of this machine's CPU time that the hypervisor gave to others, or `None`.
    """

    rules: StopRules
    processes: int
    seed: int
    measurements: tuple[Measurement, ...]
    summaries: tuple[Summary | None, ...] = ()
    exit_statuses: tuple[int, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    inputs: str = ""
    other_load: float | None = None
    stolen: float | None = None

    @property
    def exit_status(self) -> int:
        """Of the command: that of the rows that failed, 5 where they failed in different ways."""
        kinds = set(self.exit_statuses) - {int(ExitStatus.DONE)}
        if len(kinds) > 1:
            return int(ExitStatus.ENVIRONMENT_FAILED)
        return kinds.pop() if kinds else int(ExitStatus.DONE)

    def every_error(self) -> tuple[str, ...]:
        """What each row failed of, where every row failed; empty where there is a figure."""
        if any(summary is not None for summary in self.summaries):
            return ()
        return tuple(f"{m.name} on {m.target.runtime}: {m.error}" for m in self.measurements)


def summaries_of(measurements: Sequence[Measurement]) -> tuple[Summary | None, ...]:
    """Sum up each row; the first one that did not fail is what the others are compared with."""
    good = [m for m in measurements if m.status is not Status.FAILED]
    return tuple(None if m.status is Status.FAILED else _summary(m, good[0]) for m in measurements)


def _summary(measurement: Measurement, reference: Measurement) -> Summary:
    import numpy as np

    samples, runs = measurement.samples, measurement.processes
    latency_ns = np.array(samples.latency_ns, dtype=np.int64)
    block = np.array(samples.process, dtype=np.int64) << 32 | np.array(samples.round)
    peaks = [run.peak_rss_bytes for run in runs if run.peak_rss_bytes is not None]
    shares = [run.model_bytes for run in runs if run.model_bytes is not None]
    same = reference is measurement
    return Summary(
        p50=quantile(latency_ns, block, 0.5, MEDIAN_CONFIDENCE),
        p90=quantile(latency_ns, block, 0.9, TAIL_CONFIDENCE),
        p99=quantile(latency_ns, block, 0.99, TAIL_CONFIDENCE),
        mean_ns=float(latency_ns.mean()),
        count=len(latency_ns),
        rounds=len(np.unique(block)),
        throughput_per_second=(measurement.target.batch or 1) * 1e9 / float(latency_ns.mean()),
        load_ns=median(run.load_ns for run in runs),
        first_ns=median(run.first_ns for run in runs),
        peak_rss_bytes=max(peaks, default=None),
        model_bytes=max(shares, default=None),
        speed=None if same else paired_ratio(round_times(reference), round_times(measurement)),
    )


def round_times(measurement: Measurement) -> dict[int, float]:
    """The median time of one sample of the batch, by process and round."""
    samples, batch = measurement.samples, measurement.target.batch or 1
    blocks: dict[int, list[int]] = defaultdict(list)
    for ns, process, number in zip(samples.latency_ns, samples.process, samples.round, strict=True):
        blocks[block_number(process, number)].append(ns)
    return {block: median(values) / batch for block, values in blocks.items()}
