"""What else kept this machine busy while it measured, from the kernel's own account."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Account:
    """CPU time since the machine started, in seconds, all CPUs together.

    Attributes:
        busy: at work, in any program or the kernel.
        stolen: ready to work, while the hypervisor ran somebody else.
        total: busy, idle and stolen.
        own: of this process and of its children that have ended.
    """

    busy: float
    stolen: float
    total: float
    own: float


def account(text: str | None = None) -> Account | None:
    """Where it stands now; `None` where the system does not tell.

    Args:
        text: of /proc/stat; read where left out. See proc_stat(5).
    """
    if text is None:
        try:
            text = _STAT.read_text()
        except OSError:
            return None
    first = text.partition("\n")[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, idle, wait, irq, softirq, stolen = (int(n) / tick for n in first[1:9])
    busy = user + nice + system + irq + softirq
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return Account(busy, stolen, busy + idle + wait + stolen, own)


def between(
    before: Account | None, after: Account | None, seconds: float
) -> tuple[float | None, float | None]:
    """CPUs that others kept busy, and the share that was stolen.

    Args:
        before: at the start.
        after: at the end, once all children have ended.
        seconds: between the two.
    """
    if before is None or after is None or seconds <= 0 or after.total <= before.total:
        return None, None
    others = (after.busy - before.busy) - (after.own - before.own)
    stolen = (after.stolen - before.stolen) / (after.total - before.total)
    return max(0.0, others / seconds), stolen
