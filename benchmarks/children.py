"""One network, one tool, one process: with a limit on its time and on its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmarks.outcome import Outcome, heard
from benchmarks.packages import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

_POLL_S = 0.05
_WAITING = 4
STALLED = "it hardly ran: the machine is too busy, or it waits for something"
"""Why it was ended where that says little about the tool."""

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LAST_LINES = 20_000  # bytes of standard error in which the reason is looked for


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use.

    Attributes:
        seconds: of the processor, so that what else the machine does matters little; and four
            times as many in all, for one that waits.
        rss_bytes: resident at any time, as polled; imports included.
    """

    seconds: float
    rss_bytes: int


def ask(module: str, network: str, limits: Limits) -> Outcome:
    """Run `python -m MODULE NETWORK` and take the last thing it said.

    Never fails: a child that crashes, takes too long or grows too large is an outcome, too.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, network],
            stdout=said,
            stderr=complained,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=_environment(),
        )
        ended = _watch(child, limits)
        outcome = _last(said) or Outcome(network)
        if not ended and child.returncode:
            ended = _complaint(complained, child.returncode)
    return replace(outcome, why=outcome.why or ended)


def _watch(child: subprocess.Popen[bytes], limits: Limits) -> str:
    """Wait for its end, or end it; why it was ended, or ""."""
    until = time.monotonic() + _WAITING * limits.seconds
    try:
        while child.poll() is None:
            if _cpu_seconds(child.pid) > limits.seconds:
                return f"not done after {limits.seconds:.0f} s"
            if time.monotonic() > until:
                return STALLED
            if _resident_bytes(child.pid) > limits.rss_bytes:
                return f"over {limits.rss_bytes / 1e9:.1f} GB of memory"
            time.sleep(_POLL_S)
        return ""
    finally:
        child.kill()
        child.wait()


def _cpu_seconds(pid: int) -> float:
    try:  # proc_pid_stat(5): fields 14 and 15; the second, in brackets, may have blanks
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, IndexError):  # it has just ended, or the system does not tell
        return 0.0


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):  # it has just ended, or the system does not tell
        return 0


def _last(said: IO[bytes]) -> Outcome | None:
    said.seek(0)
    lines = said.read().decode(errors="replace").splitlines()
    return next((found for line in reversed(lines) if (found := heard(line))), None)


def _complaint(complained: IO[bytes], status: int) -> str:
    size = complained.seek(0, os.SEEK_END)
    complained.seek(max(0, size - _LAST_LINES))
    lines = complained.read().decode(errors="replace").strip().splitlines()
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return f"{how}: {lines[-1][:300] if lines else 'nothing said'}"


def _environment() -> Mapping[str, str]:
    return {**os.environ, **_ALONE}
