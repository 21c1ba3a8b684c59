"""What users see when a command ends early: one line on standard error, and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

import click

from deploykit import __version__
from deploykit.cli.output import printable
from deploykit.core.errors import DeploykitError, ExitStatus
from deploykit.core.processes import is_main

_OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EROFS, errno.EIO, errno.EMFILE,
    errno.ENFILE,
}  # fmt: skip
# Paths that nobody checked because they so rarely occur.
_OF_THE_CALLER = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}
# How native libraries say that memory ran out, in errors of no class of their own.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM has come: whatever undoes its work on Ctrl-C does so now as well."""


def report(error: BaseException) -> int:
    """Say on standard error why the command ended, in one line wherever it is not our bug.

    `DEPLOYKIT_TRACEBACK=1` adds the traceback, whatever the error is.

    Returns:
        The exit status.
    """
    if os.environ.get("DEPLOYKIT_TRACEBACK") == "1":
        _print_traceback(error)
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return error.code or ExitStatus.DONE
    if isinstance(error, BrokenPipeError):
        _drop_output()
        return ExitStatus.BROKEN_PIPE
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return ExitStatus.BAD_INPUT
    message, status = (
        _expected(error) or _of_the_machine(error) or _of_the_caller(error) or _bug(error)
    )
    whose = "" if is_main() else f" in process {os.environ['RANK']}"
    with suppress(OSError):  # standard error itself may be closed or full
        click.echo(f"deploykit: error{whose}: {printable(message)}", err=True)
    _drop_output()
    return status


def _expected(error: BaseException) -> tuple[str, ExitStatus] | None:
    if isinstance(error, DeploykitError):
        found = str(error), error.exit_status
    elif isinstance(error, click.UsageError):
        found = _usage(error), ExitStatus.BAD_INPUT
    elif isinstance(error, click.ClickException):
        found = error.format_message(), ExitStatus.BAD_INPUT
    elif isinstance(error, TerminatedError):
        found = "terminated", ExitStatus.TERMINATED
    elif isinstance(error, KeyboardInterrupt | click.Abort):
        found = "interrupted", ExitStatus.INTERRUPTED
    else:
        return None
    return found


def _usage(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx is not None else "deploykit"
    return f"{error.format_message().rstrip('.')}; see {path} --help"


def _of_the_machine(error: BaseException) -> tuple[str, ExitStatus] | None:
    text = str(error).lower()
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        where = f" ({error.filename})" if error.filename else ""
        message = f"the machine failed: {error.strerror}{where}"
    elif isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        message = "the machine ran out of memory; take a smaller batch or model, or free some"
    else:
        return None
    return message, ExitStatus.ENVIRONMENT_FAILED


def _of_the_caller(error: BaseException) -> tuple[str, ExitStatus] | None:
    if not isinstance(error, OSError) or error.errno not in _OF_THE_CALLER:
        return None
    return f"cannot use {error.filename}: {error.strerror}", ExitStatus.BAD_INPUT


def _bug(error: BaseException) -> tuple[str, ExitStatus]:
    lines = f"{type(error).__name__}: {error}".rstrip(": ").splitlines()
    message = f"this is a bug of deploykit {__version__}: {lines[0]}; {_where_to_read(error)}"
    return message, ExitStatus.INTERNAL_ERROR


def _where_to_read(error: BaseException) -> str:
    """Keep the traceback in a file, so that nobody has to run a long command again for it."""
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="deploykit-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"deploykit {__version__}\nPython {sys.version}\n{' '.join(sys.argv)}\n\n")
            file.writelines(traceback.format_exception(error))
    except OSError:
        return "run it again with DEPLOYKIT_TRACEBACK=1 and report what that prints"
    return f"please report it with the traceback in {file.name}"


def _print_traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)


def _drop_output() -> None:
    """Send what cannot be written nowhere, because Python tries again on its way out."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
