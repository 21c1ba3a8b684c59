"""The console script: find the command, run it, and turn whatever happens into an exit status.

Commands are imported when they are called, so that `--help`, `--version` and usage errors load
the standard library and click, nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import click

from deploykit import __version__
from deploykit.cli.failure import TerminatedError, report
from deploykit.core.errors import ExitStatus, nearest
from deploykit.core.processes import is_main

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType


class CommandLine(NamedTuple):
    """A command before it is imported.

    Attributes:
        name: as users type it.
        module: where its click command is, called `command`.
        help: one line for `deploykit --help`.
    """

    name: str
    module: str
    help: str


COMMANDS = (
    CommandLine("export", "deploykit.cli.export", "PyTorch network -> verified ONNX artifact."),
    CommandLine("bench", "deploykit.cli.bench", "Latency, memory and size, side by side."),
    CommandLine(
        "compress", "deploykit.cli.compress", "Smaller PyTorch networks: prune, distill, split."
    ),
    CommandLine("quantize", "deploykit.cli.quantize", "Float ONNX -> INT8 where it is faster."),
    CommandLine("inspect", "deploykit.cli.inspect", "Layers, parameters, MACs, where time goes."),
    CommandLine("train", "deploykit.cli.train", "Train the network of a recipe."),
    CommandLine("doctor", "deploykit.cli.doctor", "What is installed here, and what is missing."),
    CommandLine("schema", "deploykit.cli.schema", "JSON Schemas of the records."),
)
_EXIT_STATUSES = """\b
Exit statuses:
  0    done
  1    a check failed (parity, accuracy, regression, signature)
  2    usage or bad input
  3    something is not installed; the message says how to install it
  4    cannot tell: the evidence is too thin
  5    the environment failed (disk, memory, driver)
  70   a bug of deploykit
  130  interrupted (143: terminated)"""


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Every name, in the order of `COMMANDS`."""
        return [line.name for line in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command; `None` where there is none of that name."""
        for line in COMMANDS:
            if line.name == cmd_name:
                return cast("click.Command", import_module(line.module).command)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name where there is no such command."""
        names = self.list_commands(ctx)
        if not ctx.resilient_parsing and args[0] not in names and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}{nearest(args[0], names)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands, from `COMMANDS` alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(line.name, line.help) for line in COMMANDS])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXIT_STATUSES,
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Make a trained PyTorch network hardware-friendly, export it, prove it, measure it."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line.

    SIGTERM is handled as Ctrl-C is: work is undone on the way out, and the exit status says which
    of the two it was.

    Args:
        args: what follows the program's name; taken from the process where left out.

    Returns:
        The exit status; see `deploykit.core.errors.ExitStatus`.
    """
    _open_closed_streams()
    with _one_voice():
        return _ended(args)


def _ended(args: Sequence[str] | None) -> int:
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        status = _run(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001  (the one place where every error ends)
        return report(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    return status


def _run(args: list[str]) -> int:
    if "_DEPLOYKIT_COMPLETE" in os.environ:
        cli.main(args, prog_name="deploykit")
    try:
        with cli.make_context("deploykit", args) as context:
            cli.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    return ExitStatus.DONE


def _open_closed_streams() -> None:
    """Python has no stream where the caller closed it (`2>&-`); writing must not fail then."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (open to the end)
            setattr(sys, name, stream)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes that work together, the first alone has standard output."""
    if is_main():
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _terminate(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001  (signal's signature)
    raise TerminatedError
