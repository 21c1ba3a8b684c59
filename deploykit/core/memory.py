"""How much memory there is left: of the machine, and of the control group that the process is in.

A container that goes over its group's limit is ended by the kernel without a word, however much the
machine has. What the group counts includes files that were read and can be dropped at any time.

Sources: proc(5) (`MemAvailable`, statm); Linux Documentation/admin-guide/cgroup-v2.rst (Memory) and
cgroup-v1/memory.rst.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60  # version 1 writes "none" as a number next to 2^63


@dataclass(frozen=True, slots=True)
class Available:
    """Memory that can still be taken.

    Attributes:
        size_bytes: the least that anyone allows; `None` where nobody tells.
        who: says so, for messages.
    """

    size_bytes: int | None
    who: str


def available(proc: Path = _PROC, groups: Path = _GROUPS) -> Available:
    """What this process can still take before the system has to swap, or ends it.

    Args:
        proc: where the kernel tells about processes.
        groups: where control groups are mounted.
    """
    found = [Available(left, "this machine has") for left in _of_machine(proc)]
    found += [Available(left, "its control group leaves") for left in _of_groups(proc, groups)]
    return min(found, key=lambda one: one.size_bytes or 0, default=Available(None, ""))


def resident_bytes(proc: Path = _PROC) -> int:
    """Of this process, now; 0 where the system does not tell."""
    try:
        pages = int((proc / "self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _of_machine(proc: Path) -> Iterator[int]:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What each limited group leaves, from the process's own to the root."""
    for line in _lines(proc / "self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            root, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = groups / "memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = root / group.strip("/")
        # In a container the group's name may be that of the host, and what is mounted its own.
        for place in {folder, root, *(p for p in folder.parents if p.is_relative_to(root))}:
            yield from _of_group(place, *names)


def _of_group(folder: Path, limit: str, usage: str, droppable: str) -> Iterator[int]:
    most, used = _number(folder / limit), _number(folder / usage)
    if most is None or used is None or most >= _NO_LIMIT:
        return
    files = [line.split() for line in _lines(folder / "memory.stat")]
    dropped = sum(int(line[1]) for line in files if line[0] == droppable)
    yield max(most - max(used - dropped, 0), 0)


def _number(path: Path) -> int | None:
    text = "".join(_lines(path))
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
