"""The table of `deploykit bench`: what it took, what it costs, and what makes it doubtful."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from deploykit.cli.output import Column, print_table
from deploykit.cli.units import NOT_MEASURED, bytes_text, count_text, time_text
from deploykit.core.types import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploykit.bench.result import BenchResult, Summary
    from deploykit.bench.statistics import Quantile, Ratio
    from deploykit.core.types import Machine, Measurement, Target

_WHAT = (Column("#", right=True), Column("model"), Column("runtime"), Column("batch", right=True),
         Column("threads", right=True))  # fmt: skip
TIME = (*_WHAT, *(Column(name, right=True) for name in
        ("p50", "95 %", "p90", "99 %", "p99", "99 %", "speed", "95 %")))  # fmt: skip
COST = (*_WHAT, *(Column(name, right=True) for name in
        ("samples/s", "load", "first", "peak", "model", "disk", "params", "MACs")))  # fmt: skip
_LEGEND = (
    "p50, p90, p99: one call, inputs and outputs on the host, with the wider side of the interval\n"
    "speed: a sample of the batch against the first row's, paired by round\n"
    "load: file to session; first: the first call; peak: memory of the process; model: its share"
)
_WIDE = 0.1


def print_result(result: BenchResult) -> None:
    """Print both tables, then what failed, then every doubt."""
    click.echo(_heading(result))
    click.echo(inputs_line(result))
    print_table(TIME, time_rows(result))
    print_table(COST, cost_rows(result))
    click.echo(_LEGEND)
    for line in remarks(result):
        click.echo(line)


def markdown_text(result: BenchResult) -> str:
    """The same as a Markdown document."""
    from deploykit.bench.report import markdown_table

    parts = [
        f"{_heading(result)}  \n{inputs_line(result)}\n",
        markdown_table(tuple(c.name for c in TIME), time_rows(result)),
        markdown_table(tuple(c.name for c in COST), cost_rows(result)),
        "".join(f"- {line}\n" for line in remarks(result)),
    ]
    return "\n".join(part for part in parts if part)


def time_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """One row a measurement: how long it takes."""
    return [
        (*_what(number, measurement), *_times(summary, first=number == _reference(result)))
        for number, (measurement, summary) in enumerate(_rows(result))
    ]


def cost_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """One row a measurement: what it costs besides."""
    return [
        (
            *_what(number, measurement),
            *_loading(summary),
            bytes_text(measurement.size_bytes),
            count_text(measurement.parameters),
            count_text(measurement.macs),
        )
        for number, (measurement, summary) in enumerate(_rows(result))
    ]


def _loading(summary: Summary | None) -> tuple[str, ...]:
    if summary is None:
        return (NOT_MEASURED,) * 5
    return (
        count_text(summary.throughput_per_second),
        time_text(summary.load_ns),
        time_text(summary.first_ns),
        bytes_text(summary.peak_rss_bytes),
        bytes_text(summary.model_bytes),
    )


def remarks(result: BenchResult) -> Iterator[str]:
    """What failed and why, what was left out and why, and every doubt."""
    for number, (measurement, summary) in enumerate(_rows(result)):
        if summary is None:
            yield f"row {number + 1} failed: {measurement.error}"
        elif summary.p99 is None:
            yield f"row {number + 1}: no p99: {_why_no_p99(summary, measurement, result)}"
    for doubt in result.doubts:
        where = "" if doubt.row is None else f"row {doubt.row + 1}: "
        yield f"doubtful: {where}{doubt.text}"


def _why_no_p99(summary: Summary, measurement: Measurement, result: BenchResult) -> str:
    from deploykit.bench.statistics import TAIL_CONFIDENCE, samples_needed

    needed = samples_needed(0.99, TAIL_CONFIDENCE)
    advice = f"--min-count {needed}"
    if measurement.status is Status.BUDGET_SPENT:  # more calls would not have fitted in
        seconds = result.rules.budget_ns / 1e9 * needed / summary.count
        advice += f" --budget {math.ceil(seconds)}s"
    return f"{summary.count} calls, and its bounds need {needed}: {advice}"


def _heading(result: BenchResult) -> str:
    machine: Machine = result.measurements[0].machine
    parts = [machine.cpu, f"{machine.cores} CPUs"]
    sets = [name for name in ("avx2", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")
            if name in machine.instruction_sets]  # fmt: skip
    parts += [" ".join(sets)] if sets else []
    parts += ["virtual"] if machine.virtual else []
    pinned = result.measurements[0].target.cpus
    parts += [f"pinned to CPUs {', '.join(map(str, pinned))}"] if pinned else []
    if result.processes > 1:
        parts.append(f"{result.processes} processes a row")
    return ", ".join(parts)


def inputs_line(result: BenchResult) -> str:
    """What was fed: where it came from and the shapes, which nobody may have asked for."""
    shown: dict[tuple[str, int | None], str] = {}
    for measurement in result.measurements:
        shapes = ", ".join(
            f"{n} {'x'.join(map(str, s))}" for n, s in measurement.target.shapes.items()
        )
        shown.setdefault((measurement.name, measurement.target.batch), shapes)
    several = len({name for name, _ in shown}) > 1 and len(set(shown.values())) > 1
    texts = [f"{name}: {shapes}" if several else shapes for (name, _), shapes in shown.items()]
    return f"inputs {result.inputs}: {'; '.join(dict.fromkeys(texts))}"


def _rows(result: BenchResult) -> Iterator[tuple[Measurement, Summary | None]]:
    return zip(result.measurements, result.summaries, strict=True)


def _reference(result: BenchResult) -> int:
    return next((n for n, summary in enumerate(result.summaries) if summary is not None), -1)


def _what(number: int, measurement: Measurement) -> tuple[str, ...]:
    target: Target = measurement.target
    threads = "auto" if target.threads is None else str(target.threads)
    batch = "fixed" if target.batch is None else str(target.batch)
    return str(number + 1), measurement.name, target.runtime, batch, threads


def _times(summary: Summary | None, *, first: bool) -> tuple[str, ...]:
    if summary is None:
        return ("failed", *(NOT_MEASURED,) * 7)
    speed = ("1", "") if first else _speed(summary.speed)
    return (
        _value(summary.p50),
        _spread(summary.p50),
        _value(summary.p90),
        _spread(summary.p90),
        _value(summary.p99),
        _spread(summary.p99),
        *speed,
    )


def _value(found: Quantile | None) -> str:
    return NOT_MEASURED if found is None else time_text(found.value_ns)


def _spread(found: Quantile | None) -> str:
    """Half the interval in percent, the wider side: what `--precision` is held against."""
    if found is None or found.low_ns is None or found.high_ns is None:
        return NOT_MEASURED
    share = max(found.value_ns - found.low_ns, found.high_ns - found.value_ns) / found.value_ns
    return f"±{share:.1%}" if share < _WIDE else f"±{share:.0%}"


def _speed(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return NOT_MEASURED, NOT_MEASURED
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3g}x", NOT_MEASURED
    return f"{ratio.value:.3g}x", f"{ratio.low:.3g}-{ratio.high:.3g}"
