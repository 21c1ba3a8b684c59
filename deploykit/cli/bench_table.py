"""The tables of `deploykit bench`: what it took, what it costs, and what makes it doubtful."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from deploykit.cli.output import Column, print_table, printable
from deploykit.cli.units import NOT_MEASURED, bytes_text, count_text, time_text
from deploykit.core.measurement import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploykit.bench.result import BenchResult, Summary
    from deploykit.bench.statistics import Quantile
    from deploykit.core.measurement import Measurement

_LEGEND = (
    "p50, p90, p99: one call, inputs and outputs on the host, with the wider side of the interval",
    "speed: a sample of the batch against the first row's, paired by round",
    "load: file to session; first: the first call; peak: memory of the process; model: its share",
)
_WIDE = 0.1
_SHOWN_SETS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def print_result(result: BenchResult) -> None:
    """Print both tables, then what failed, then every doubt."""
    for line in heading(result):
        click.echo(printable(line))
    for table in (time_table(result), cost_table(result)):
        print_table(table.columns, table.rows)
    for line in (*_LEGEND, *remarks(result)):
        click.echo(_folded(printable(line)))


def markdown_text(result: BenchResult) -> str:
    """The same as a Markdown document."""
    from deploykit.bench.report import markdown_table

    tables = [
        markdown_table(tuple(column.name for column in table.columns), list(table.rows))
        for table in (time_table(result), cost_table(result))
    ]
    notes = "".join(f"- {line}\n" for line in remarks(result))
    return "\n".join(part for part in ("  \n".join(heading(result)) + "\n", *tables, notes) if part)


def heading(result: BenchResult) -> tuple[str, ...]:
    """The machine; what was fed; and what all rows have in common."""
    first = result.measurements[0]
    machine, target = first.machine, first.target
    sets = [name for name in _SHOWN_SETS if name in machine.instruction_sets]
    parts = [machine.cpu, f"{machine.cores} CPUs", *([" ".join(sets)] if sets else [])]
    parts += ["virtual"] if machine.virtual else []
    parts += [f"pinned to CPUs {', '.join(map(str, target.cpus))}"] if target.cpus else []
    parts += [f"{result.processes} processes a row"] if result.processes > 1 else []
    parts += [f"{name} {value}" for name, value in _in_common(result).items()]
    return ", ".join(parts), _inputs_line(result)


def time_table(result: BenchResult) -> Table:
    """How long a call takes, one row a measurement."""
    figures = ("p50", "95 %", "p90", "99 %", "p99", "99 %", "speed", "95 %")
    reference = next((n for n, summary in enumerate(result.summaries) if summary is not None), -1)
    return _table(
        result,
        ("runtime", "batch", "threads"),
        figures,
        [
            _times(summary, first=number == reference)
            for number, summary in enumerate(result.summaries)
        ],
    )


def cost_table(result: BenchResult) -> Table:
    """What it costs besides, one row a measurement."""
    figures = ("per s", "load", "first", "peak", "model", "disk", "params", "MACs")
    return _table(result, ("runtime",), figures, [_costs(*row) for row in _rows(result)])


def remarks(result: BenchResult) -> Iterator[str]:
    """What failed and why, what was left out and why, and every doubt."""
    for number, (measurement, summary) in enumerate(_rows(result)):
        if summary is None:
            yield f"row {number + 1} failed: {measurement.error}"
    yield from _no_p99(result)
    kinds = dict.fromkeys((doubt.kind, doubt.advice) for doubt in result.doubts)
    for kind, advice in kinds:
        same = [d for d in result.doubts if (d.kind, d.advice) == (kind, advice)]
        what = ", ".join(
            doubt.text if doubt.row is None else f"row {doubt.row + 1}: {doubt.text}"
            for doubt in same
        )
        yield f"doubtful: {what}; {advice}"


def _no_p99(result: BenchResult) -> Iterator[str]:
    from deploykit.bench.statistics import TAIL_CONFIDENCE, samples_needed

    needed = samples_needed(0.99, TAIL_CONFIDENCE)
    without = {
        number + 1: (measurement, summary.count)
        for number, (measurement, summary) in enumerate(_rows(result))
        if summary is not None and summary.p99 is None
    }
    if not without:
        return
    counts = [count for _, count in without.values()]
    advice = f"--min-count {needed}"
    if any(m.status is Status.BUDGET_SPENT for m, _ in without.values()):
        seconds = math.ceil(result.rules.budget_ns / 1e9 * needed / min(counts))
        advice += f" --budget {seconds}s"  # more calls would not have fitted in
    rows = f"row{'s' if len(without) > 1 else ''} {', '.join(map(str, without))}"
    calls = " to ".join(dict.fromkeys(map(str, (min(counts), max(counts)))))
    yield f"no p99 in {rows}: {calls} calls, and its bounds need {needed}: {advice}"


def _table(
    result: BenchResult,
    where: Sequence[str],
    figures: Sequence[str],
    cells: Sequence[Sequence[str]],
) -> Table:
    """The columns that say what a row is, less those that say the same everywhere, and figures."""
    where = [name for name in where if name not in _in_common(result)]
    columns = (
        Column("#", right=True, whole=True),
        Column("model"),
        *(Column(name, right=name != "runtime", whole=True) for name in where),
        *(Column(name, right=True, whole=True) for name in figures),
    )
    rows = (
        (str(n + 1), m.name, *(_where(m)[name] for name in where), *cells[n])
        for n, m in enumerate(result.measurements)
    )
    return Table(columns, tuple(rows))


def _where(measurement: Measurement) -> dict[str, str]:
    target = measurement.target
    return {
        "runtime": target.runtime,
        "batch": "fixed" if target.batch is None else str(target.batch),
        "threads": "auto" if target.threads is None else str(target.threads),
    }


def _in_common(result: BenchResult) -> dict[str, str]:
    """Batch and threads where all rows have the same."""
    all_of_them = [_where(measurement) for measurement in result.measurements]
    return {
        name: all_of_them[0][name]
        for name in ("batch", "threads")
        if len({where[name] for where in all_of_them}) == 1
    }


def _inputs_line(result: BenchResult) -> str:
    """Where inputs came from and their shapes, some of which nobody may have asked for."""
    shown = {
        measurement.name: ", ".join(
            f"{name} {'x'.join(map(str, shape)) or 'scalar'}"
            for name, shape in measurement.target.shapes.items()
        )
        for measurement in reversed(result.measurements)
    }
    alike = len(set(shown.values())) == 1
    texts = [text if alike else f"{name}: {text}" for name, text in reversed(shown.items())]
    return f"inputs {result.inputs}: {'; '.join(dict.fromkeys(texts))}"


def _rows(result: BenchResult) -> Iterator[tuple[Measurement, Summary | None]]:
    return zip(result.measurements, result.summaries, strict=True)


def _times(summary: Summary | None, *, first: bool) -> tuple[str, ...]:
    if summary is None:
        return ("failed", *(NOT_MEASURED,) * 7)
    ratio = summary.speed
    speed = (
        ("1", "")
        if first
        else (NOT_MEASURED, NOT_MEASURED)
        if ratio is None
        else (f"{ratio.value:.3g}x", _wider_side(ratio.value, ratio.low, ratio.high))
    )
    quantiles = (summary.p50, summary.p90, summary.p99)
    return (*(cell for found in quantiles for cell in _quantile(found)), *speed)


def _costs(measurement: Measurement, summary: Summary | None) -> tuple[str, ...]:
    run = (NOT_MEASURED,) * 5
    if summary is not None:
        run = (
            count_text(summary.throughput_per_second),
            time_text(summary.load_ns),
            time_text(summary.first_ns),
            bytes_text(summary.peak_rss_bytes),
            bytes_text(summary.model_bytes),
        )
    return (
        *run,
        bytes_text(measurement.size_bytes),
        count_text(measurement.parameters),
        count_text(measurement.macs),
    )


def _quantile(found: Quantile | None) -> tuple[str, str]:
    if found is None:
        return NOT_MEASURED, NOT_MEASURED
    return time_text(found.value_ns), _wider_side(found.value_ns, found.low_ns, found.high_ns)


def _wider_side(value: float, low: float | None, high: float | None) -> str:
    """Of an interval, in percent of the value: what `--precision` is held against."""
    if low is None or high is None:
        return NOT_MEASURED
    share = max(value - low, high - value) / value
    return f"±{share:.1%}" if share < _WIDE else f"±{share:.0%}"


def _folded(line: str) -> str:
    """Between words, where a terminal would break it anywhere."""
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False)
