"""`deploykit bench`: latency, memory and size of artifacts, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.output import json_option, print_json, progress, quiet_option
from deploykit.cli.types import CPUS, DURATION, INTEGERS, PERCENT, SIZE
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.bench.result import BenchResult

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("bench")
@click.argument("artifacts", nargs=-1, required=True, metavar="ARTIFACT...")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME",
    help="Every one that is here, if left out.",
)
@click.option("--batch", "batches", type=INTEGERS, default=(), help="Batch sizes, 1,8,32.")
@click.option("--threads", type=INTEGERS, default=(), help="Threads of one operator, 1,2,4.")
@click.option("--cpus", type=CPUS, default=(), help="Pin the processes to these CPUs, 0-3.")
@click.option(
    "--data",
    "data_text",
    default="",
    metavar="DATA",
    help="Real inputs: fashion-mnist:val, x.npz, images/ ...",
)
@click.option(
    "--shape",
    "--size",
    "shapes",
    type=SIZE,
    multiple=True,
    metavar="DIM=N",
    help="Size of another dynamic dimension.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="ONNX Runtime only: optimization=all|extended|basic|disable, spin=on|off.",
)
@click.option(
    "--input", "inputs", multiple=True, help='PyTorch only: "x=N[1..64]x3x224x224:float32".'
)
@click.option("--weights", type=_FILE, help="PyTorch only: .safetensors, .pt or .pth.")
@click.option("--trust", is_flag=True, help="PyTorch only: load a .pt2, which can run code.")
@click.option(
    "--min-time", type=DURATION, default="1s", show_default=True, help="Least time inside calls."
)
@click.option(
    "--min-count", type=click.IntRange(min=1), default=100, show_default=True, help="Fewest calls."
)
@click.option(
    "--precision",
    type=PERCENT,
    default="1%",
    show_default=True,
    help="Go on until the median is known this well.",
)
@click.option(
    "--budget",
    type=DURATION,
    default="30s",
    show_default=True,
    help="Most time inside calls, for each row.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Fresh processes for each row.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of order and made-up inputs.",
)
@click.option("-o", "--output", type=_FILE, help="Keep the record, every raw sample, as JSON.")
@click.option("--csv", "csv_path", type=_FILE, help="Keep one line a row as CSV.")
@click.option("--markdown", "markdown_path", type=_FILE, help="Keep the table as Markdown.")
@json_option
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    *,
    artifacts: tuple[str, ...],
    runtimes: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    cpus: tuple[int, ...],
    data_text: str,
    shapes: tuple[tuple[str, int], ...],
    options: tuple[str, ...],
    inputs: tuple[str, ...],
    weights: Path | None,
    trust: bool,
    min_time: int,
    min_count: int,
    precision: float,
    budget: int,
    processes: int,
    seed: int,
    output: Path | None,
    csv_path: Path | None,
    markdown_path: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Latency, memory and size of artifacts, side by side.

    ARTIFACT is an ONNX file, an artifact's folder, or a PyTorch source such as net.py:build. Each
    is measured on every runtime, batch size and thread count, in a process of its own, in rounds
    that take turns, so that drift of the machine hits all alike.

    A row that fails does not stop the others; the exit status is then that of its error (5 where
    several rows failed in different ways).
    """
    from deploykit.bench.cases import Wanted
    from deploykit.bench.run import Plan
    from deploykit.bench.schedule import StopRules
    from deploykit.flow.measure import BenchRequest, measure
    from deploykit.load.inputs import parse_inputs

    _check_outputs(output, csv_path, markdown_path)
    request = BenchRequest(
        artifacts,
        Wanted(runtimes, batches, threads, cpus, dict(shapes), _options(options), seed),
        Plan(
            StopRules(min_time, min_count, precision, budget),
            processes=processes,
            seed=seed,
            inputs=data_text or f"made up from seed {seed}",
        ),
        data=data_text,
        inputs=parse_inputs(inputs),
        weights=weights,
        trust=trust,
    )
    with progress(quiet or as_json, still=True) as tell:
        result = measure(request, tell)
    _keep(result, output, csv_path, markdown_path)
    for error in result.every_error():
        click.echo(f"deploykit: error: {error}", err=True)
    if as_json:
        from deploykit.bench.result import BENCH

        print_json(result, BENCH)
    elif not result.every_error():
        from deploykit.cli.bench_table import print_result

        print_result(result)
    context.exit(result.exit_status)


def _options(texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise BadInputError(f"--option {text!r} is not KEY=VALUE; write it like spin=off")
        pairs[name] = value
    return pairs


def _check_outputs(*paths: Path | None) -> None:
    """Refuse a file that cannot be written before minutes have gone into it."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise BadInputError(f"cannot write {path}: the folder {path.parent} does not exist")


def _keep(
    result: BenchResult, output: Path | None, csv_path: Path | None, markdown_path: Path | None
) -> None:
    from deploykit.bench.report import csv_text
    from deploykit.bench.result import BENCH
    from deploykit.core import records

    if output is not None:
        records.save(output, result, BENCH)
    if csv_path is not None:
        records.write_bytes(csv_path, csv_text(result).encode())
    if markdown_path is not None:
        from deploykit.cli.bench_table import markdown_text

        records.write_bytes(markdown_path, markdown_text(result).encode())
