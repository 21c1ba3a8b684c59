"""The errors that deploykit raises on purpose, and the one table of exit statuses.

::

    DeploykitError
    ├── CheckFailedError    1  parity, accuracy, a signature, "cannot help here"
    ├── BadInputError       2  usage, or a file, name or value that cannot be used
    ├── MissingExtraError   3  something is not installed; the message says how to install it
    ├── CannotTellError     4  measured, but not enough to decide
    └── EnvironmentFailedError 5  disk, memory, driver, a crashed child process

Every message is one line: what was wrong, with the value, and what to type instead. Anything
else that escapes a command is a bug of deploykit and ends with status 70, never 1, so that CI
cannot take a crash for a verdict.
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class ExitStatus(IntEnum):
    """What a deploykit command hands back to the shell."""

    DONE = 0
    CHECK_FAILED = 1
    BAD_INPUT = 2
    MISSING_EXTRA = 3
    CANNOT_TELL = 4
    ENVIRONMENT_FAILED = 5
    INTERNAL_ERROR = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    """Whoever read our output has gone (`| head`): 128 and the signal, as shells report it."""
    TERMINATED = 143


class DeploykitError(Exception):
    """The root: never raised itself. `str()` of it is the one line that users read."""

    exit_status: ClassVar[ExitStatus] = ExitStatus.INTERNAL_ERROR


class CheckFailedError(DeploykitError):
    """The work was done and its result is not good enough to hand over."""

    exit_status = ExitStatus.CHECK_FAILED


class BadInputError(DeploykitError):
    """What was given cannot be used: the message has the value and the way to mend it."""

    exit_status = ExitStatus.BAD_INPUT


class MissingExtraError(DeploykitError):
    """A package is not installed: the message has the line that installs it."""

    exit_status = ExitStatus.MISSING_EXTRA


class CannotTellError(DeploykitError):
    """The evidence is too thin for a verdict."""

    exit_status = ExitStatus.CANNOT_TELL


class EnvironmentFailedError(DeploykitError):
    """The machine failed us: disk, memory, driver, or a child process that died."""

    exit_status = ExitStatus.ENVIRONMENT_FAILED


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: `; did you mean 'relu'?`, or the choices.

    Args:
        name: what was typed.
        known: what would have been right.

    Returns:
        A phrase that starts with "; ", or "" where nothing is known.
    """
    choices = sorted(set(known))
    close = get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not choices:
        return ""
    shown = ", ".join(choices[:_MOST_SHOWN])
    more = f" and {len(choices) - _MOST_SHOWN} more" if len(choices) > _MOST_SHOWN else ""
    return f"; known: {shown}{more}"


_MOST_SHOWN = 12
