"""The C library's heap: what it keeps of freed memory, and giving it back."""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt, in malloc.h
_EXACT = ((_MMAP_THRESHOLD, 1 << 20), (_TRIM_THRESHOLD, 1 << 20))
_LEARNT = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))


def give_back() -> None:
    """Return unused heap to the system.

    The C library keeps what was freed for whoever asks next (glibc: up to 64 MB at its end, and all
    holes), and a process that frees and takes large blocks of changing sizes grows with it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


@contextmanager
def exact_heap() -> Iterator[None]:
    """Have the C library return every block of 1 MB and more as soon as it is freed.

    By default glibc learns from what is freed: sooner or later blocks of up to 32 MB come from its
    heap, whose holes stay with the process, so that the second batch takes more than the first.
    Afterwards it is as in a process that has learnt (mallopt(3): setting it ends the learning).
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    try:
        for setting, size in _EXACT:
            library.mallopt(setting, size)
        yield
    finally:
        for setting, size in _LEARNT:
            library.mallopt(setting, size)
