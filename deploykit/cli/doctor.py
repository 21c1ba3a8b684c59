"""`deploykit doctor`: what is installed here, what works, and how to install what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deploykit.cli.output import (
    Column,
    json_option,
    print_json,
    print_table,
    progress,
    quiet_option,
)
from deploykit.cli.units import bytes_text
from deploykit.core.errors import ExitStatus

if TYPE_CHECKING:
    from deploykit.bench.diagnosis import Diagnosis


@click.command("doctor")
@click.option("--deep", is_flag=True, help="Run PyTorch as well, which takes seconds to import.")
@json_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, *, deep: bool, as_json: bool, quiet: bool) -> None:
    """Which runtimes, extras and hardware are there, and how to install what is missing.

    Every runtime that is there runs a network of one layer in a process of its own. The exit
    status is 0 whatever is missing, and 5 where something is installed and does not work.
    """
    from deploykit.bench.diagnosis import DOCTOR, diagnose

    with progress(quiet or as_json) as tell:
        found = diagnose(deep=deep, progress=tell)
    if as_json:
        print_json(found, DOCTOR)
    else:
        _print(found)
    if found.broken:
        ctx.exit(ExitStatus.ENVIRONMENT_FAILED)


def _print(found: Diagnosis) -> None:
    machine = found.machine
    memory = f", {bytes_text(machine.memory_bytes)} of memory" if machine.memory_bytes else ""
    click.echo(
        f"deploykit {found.deploykit}, Python {found.python}, {machine.os}\n"
        f"{machine.cpu} ({machine.arch}), {machine.cores} CPUs for this process{memory}\n"
    )
    columns = (Column(""), Column("part"), Column("state"), Column("detail"), Column("to install"))
    rows = [(f.area, f.name, f.state.value, f.detail, f.remedy) for f in found.findings]
    print_table(columns, rows)
    for finding in found.broken:
        remedy = f": {finding.remedy}" if finding.remedy else ""
        click.echo(f"\nbroken: {finding.area} {finding.name}: {finding.detail}{remedy}")
