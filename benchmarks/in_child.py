"""A module of the benchmarks run in a process of its own, which answers in its last line."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.packages import ROOT

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


class ChildError(RuntimeError):
    """A child failed; the text is the last line that it said."""


def answer(
    module: str, *arguments: str, environment: dict[str, str], timeout_s: float | None = None
) -> str:
    """Run `python -m MODULE ARGUMENTS` and wait.

    Args:
        module: with its package.
        arguments: of its command line.
        environment: variables beside this process's own.
        timeout_s: after which it is ended, with `subprocess.TimeoutExpired`.

    Returns:
        The last line of what it printed, or "".

    Raises:
        ChildError: it failed.
    """
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=timeout_s,
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        raise ChildError(lines[-1] if lines else f"exit status {ended.returncode}")
    return (ended.stdout.splitlines() or [""])[-1]
