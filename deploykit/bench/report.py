"""A benchmark as text: CSV for programs, Markdown for documents. Tables for people: `cli`."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploykit.bench.result import BenchResult, Summary
    from deploykit.bench.statistics import Quantile
    from deploykit.core.measurement import Measurement

CSV_COLUMNS = (
    "name", "runtime", "device", "batch", "threads", "cpus", "status", "error", "count", "rounds",
    "p50_ns", "p50_low_ns", "p50_high_ns", "p90_ns", "p90_low_ns", "p90_high_ns",
    "p99_ns", "p99_low_ns", "p99_high_ns", "mean_ns", "throughput_per_second",
    "speed", "speed_low", "speed_high", "load_ns", "first_ns", "peak_rss_bytes", "model_bytes",
    "size_bytes", "parameters", "macs", "artifact_digest",
)  # fmt: skip


def csv_text(result: BenchResult) -> str:
    """One line a row, base units, empty where it could not be measured."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for measurement, summary in zip(result.measurements, result.summaries, strict=True):
        writer.writerow(_record(measurement, summary))
    return out.getvalue()


def _record(measurement: Measurement, summary: Summary | None) -> dict[str, object]:
    target = measurement.target
    row: dict[str, object] = {
        "name": measurement.name,
        "runtime": target.runtime,
        "device": target.device,
        "batch": target.batch,
        "threads": target.threads,
        "cpus": " ".join(map(str, target.cpus)),
        "status": measurement.status.value,
        "error": measurement.error,
        "size_bytes": measurement.size_bytes,
        "parameters": measurement.parameters,
        "macs": measurement.macs,
        "artifact_digest": measurement.artifact_digest,
    }
    if summary is None:
        return row
    same = ("count", "rounds", "mean_ns", "throughput_per_second", "load_ns", "first_ns",
            "peak_rss_bytes", "model_bytes")  # fmt: skip
    row |= {name: getattr(summary, name) for name in same}
    row |= _quantile("p50", summary.p50) | _quantile("p90", summary.p90)
    row |= _quantile("p99", summary.p99)
    if summary.speed is not None:
        speed = summary.speed
        row |= {"speed": speed.value, "speed_low": speed.low, "speed_high": speed.high}
    return row


def _quantile(name: str, found: Quantile | None) -> dict[str, object]:
    if found is None:
        return {}
    return {
        f"{name}_ns": found.value_ns,
        f"{name}_low_ns": found.low_ns,
        f"{name}_high_ns": found.high_ns,
    }


def markdown_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of GitHub's Markdown; pipes in cells are escaped."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(columns), line(("---",) * len(columns)), *map(line, rows)]) + "\n"
