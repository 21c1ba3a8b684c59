"""How long work that tells its share will still take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST_S = 2.0  # before that, what starts slowly looks as if it took forever


class TimeLeft:
    """An estimate from the pace since the work began, or since it went on from a checkpoint.

    A share that falls, or is not known, begins other work.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, float] | None = None  # time and share
        self._last = 0.0

    def text(self, share: float | None) -> str:
        """Such as "0:03:20 left"; "" while nobody can tell.

        Args:
            share: of the work that is done by now, 0 to 1; `None`: unknown.
        """
        now = self._clock()
        if share is None:
            self._began = None
            return ""
        if self._began is None or share < self._last:
            self._began = (now, share)
        self._last = share
        began_s, first = self._began
        if now - began_s < _LEAST_S or share <= first:
            return ""
        seconds = round((now - began_s) * (1 - share) / (share - first))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
