"""Memory of a process, from the kernel's own counters.

The kernel keeps the highest resident set size of each process (`VmHWM`) and brings it up to date
whenever memory is given back, so that a spike of a millisecond is seen, which polling would miss.
Writing 5 to `/proc/self/clear_refs` starts it anew from the present size.

The counters are exact to a bound: up to Linux 6.1 each thread keeps up to 64 pages to itself
(256 kB), since 6.2 each CPU up to max(32, 2 x CPUs) pages (`percpu_counter`): 128 kB a CPU up to
16 CPUs, where `error_bound_bytes` tells it.

Sources: proc_pid_status(5), proc_pid_clear_refs(5); Linux mm/memory.c (`sync_mm_rss`),
include/linux/mm.h (`get_mm_counter`), lib/percpu_counter.c.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_LEAST_BATCH = 32


@dataclass(frozen=True, slots=True)
class Baseline:
    """Where counting began.

    Attributes:
        rss_bytes: resident then, or `None` where it cannot be told.
        restarted: whether the peak counts from there, and not from the start of the process.
    """

    rss_bytes: int | None
    restarted: bool


def start() -> Baseline:
    """Give unused heap back to the system, restart the peak and read where it stands."""
    gc.collect()
    _trim_heap()
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return Baseline(_status_bytes("VmRSS"), restarted=False)
    # After the reset both are the same; the peak is the figure that the end is compared with.
    return Baseline(_status_bytes("VmHWM"), restarted=True)


def peak_bytes() -> int | None:
    """The highest resident memory since `start`, or since the process began, or `None`."""
    peak = _status_bytes("VmHWM")
    if peak is not None or sys.platform == "win32":
        return peak
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def share_bytes(baseline: Baseline, peak: int | None) -> int | None:
    """The model's own share of a peak; `None` where it cannot be told apart."""
    if peak is None or baseline.rss_bytes is None or not baseline.restarted:
        return None
    return max(0, peak - baseline.rss_bytes)


def error_bound_bytes(cpus: int) -> int:
    """By how much the kernel's counter may be off, since Linux 6.2.

    Args:
        cpus: of the machine, online.
    """
    return max(_LEAST_BATCH, 2 * cpus) * cpus * mmap.PAGESIZE


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _status_bytes(field: str) -> int | None:
    try:
        text = _STATUS.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _trim_heap() -> None:
    """Without it the model would grow into holes that the imports left, and look smaller."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
