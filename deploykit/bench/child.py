"""The parent's side of a measuring process."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeVar

from deploykit.bench import protocol
from deploykit.core.errors import (
    BadInputError,
    CannotTellError,
    CheckFailedError,
    DeploykitError,
    EnvironmentFailedError,
    MissingExtraError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

A = TypeVar("A")
# -P: a `queue.py` in the folder where the user stands must not be taken for Python's own.
WORKER = (sys.executable, "-P", "-m", "deploykit.bench.worker")
_ERRORS: dict[int, type[DeploykitError]] = {
    int(kind.exit_status): kind
    for kind in (
        CheckFailedError, BadInputError, MissingExtraError, CannotTellError, EnvironmentFailedError
    )
}  # fmt: skip
_PATIENCE_S = 5.0


class Child:
    """A worker process; a context manager that leaves none behind.

    Args:
        command: what to run; a shell on another device would do.
    """

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        # A session of its own: Ctrl-C reaches the parent alone, which then ends its children.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, request: protocol.Message, kind: type[A]) -> A:
        """Send a request and wait for its answer.

        Raises:
            DeploykitError: of the class that the worker says; `EnvironmentFailedError` where it
                crashed, with the signal or the last line that it printed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: reading tells why
            self._process.stdin.write(protocol.encode(request))
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EnvironmentFailedError(self._why_it_ended())
        answer = protocol.decode(line)
        if isinstance(answer, protocol.Failed):
            raise _ERRORS.get(answer.status, EnvironmentFailedError)(answer.error)
        assert isinstance(answer, kind), answer
        return answer

    def close(self) -> None:
        """End the process and wait for it. May be called twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:  # its input has ended, and so does it
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
            self._stderr.close()

    def _why_it_ended(self) -> str:
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return "the process was killed (SIGKILL), most likely because memory ran out"
        if status < 0:
            return f"the process crashed ({_signal_name(-status)}){self._last_words()}"
        return f"the process ended with status {status}{self._last_words()}"

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:200]}" if said else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
