"""What commands print: results on standard output, progress on standard error.

Results are tables for people or one JSON record for programs. Progress is drawn only where
standard error is a terminal, so that logs and pipes stay clean.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from deploykit.core.processes import is_main
from deploykit.core.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from deploykit.core.progress import Progress
    from deploykit.core.records import Schema

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON record instead of tables."
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Draw no progress.")

_ALMOST = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: its heading.
        right: whether it is aligned to the right, as figures are.
        whole: whether its cells are never folded: a narrow terminal folds the others first.
    """

    name: str
    right: bool = False
    whole: bool = False


@contextmanager
def progress(quiet: bool, still: bool = False) -> Iterator[Progress]:
    """A `Progress` that draws one line, and wipes it at the end.

    Until then standard output is standard error: what a user's network, data or metric prints is
    no result of ours, and `--json` must stay JSON.

    Args:
        quiet: draw nothing, whatever standard error is.
        still: draw only when told something, not ten times a second from a thread: a benchmark
            must not be disturbed by its own progress.
    """
    with redirect_stdout(sys.stderr), _drawn(quiet, still) as tell:
        yield tell


@contextmanager
def _drawn(quiet: bool, still: bool) -> Iterator[Progress]:
    if quiet or not is_main() or not sys.stderr.isatty():
        yield silent
        return
    from rich import progress as bars
    from rich.console import Console

    from deploykit.cli.time_left import TimeLeft

    columns = (
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=24),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.fields[left]}"),
    )
    with bars.Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=not still
    ) as bar:
        # Ours, for rich's own knows nothing where steps are more than half a minute apart.
        left = TimeLeft()
        task = bar.add_task("", total=None, left="")

        def draw(message: str, share: float | None) -> None:
            total = None if share is None else 1.0
            # A full bar would stop the clock, and other work may follow.
            completed = min(share or 0.0, _ALMOST)
            text = left.text(share)
            bar.update(
                task,
                description=message,
                total=total,
                completed=completed,
                refresh=still,
                left=text,
            )

        yield draw


def printable(text: str) -> str:
    """One line without control characters: names in untrusted files must not drive a terminal."""
    line = " ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def print_json(value: object, schema: Schema) -> None:
    """Print a record, with its schema and version, as UTF-8.

    Args:
        value: a dataclass instance.
        schema: what it is.
    """
    from deploykit.core.records import encode

    click.echo(encode(value, schema), nl=False)


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], title: str | None = None
) -> None:
    """Print a table. No cell is ever cut off.

    On a terminal rich draws it, and folds long cells. In a pipe or a file each row is one line of
    plain text, as wide as it must be, columns two spaces apart.

    Args:
        columns: the headings.
        rows: as many cells each as there are columns.
        title: a line above.
    """
    cells = [tuple(map(printable, row)) for row in rows]
    title = None if title is None else printable(title)
    if sys.stdout.isatty():
        _draw(columns, cells, title)
    else:
        click.echo(_plain(columns, cells, title))


def _draw(columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # with the box's own space: columns two apart
    )
    for column in columns:
        table.add_column(
            Text(column.name),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.whole,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in cells are not markup
    Console().print(table)


def _plain(columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str | None) -> str:
    head = tuple(column.name for column in columns)
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    rule = tuple("-" * width for width in widths)
    lines = [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in (head, rule, *rows)
    ]
    return "\n".join([*([title] if title else []), *lines])
