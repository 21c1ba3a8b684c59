"""The estimate of the time that is left, by a clock made for it."""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING

from deploykit.cli.output import progress
from deploykit.cli.time_left import TimeLeft

if TYPE_CHECKING:
    import pytest


def _told(*times_and_shares: tuple[float, float | None]) -> list[str]:
    times = iter([time for time, _ in times_and_shares])
    left = TimeLeft(lambda: next(times))
    return [left.text(share) for _, share in times_and_shares]


def test_even_work_takes_as_long_as_it_did() -> None:
    assert _told((0, 0.0), (100, 0.25), (200, 0.5), (400, 1.0)) == [
        "",
        "0:05:00 left",
        "0:03:20 left",
        "0:00:00 left",
    ]


def test_hours_are_hours() -> None:
    assert _told((0, 0.0), (3661, 0.5))[1] == "1:01:01 left"


def test_what_an_earlier_run_did_is_no_pace() -> None:
    assert _told((0, 0.8), (10, 0.9)) == ["", "0:00:10 left"]


def test_other_work_begins_anew() -> None:
    assert _told((0, 0.0), (500, 1.0), (500, 0.1), (510, 0.2))[2:] == ["", "0:01:20 left"]
    assert _told((0, 0.0), (500, 0.5), (600, None), (700, 0.6), (710, 0.7))[2:] == [
        "",
        "",
        "0:00:30 left",
    ]


def test_nothing_is_said_before_there_is_a_pace() -> None:
    assert _told((0, 0.1), (1, 0.2), (9, 0.1), (20, 0.1)) == ["", "", "", ""]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_clock_goes_on_when_other_work_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich stops the clock of a bar that is full."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    with progress(quiet=False, still=True) as tell:
        for now[0], share in ((0.0, 0.0), (600.0, 1.0), (660.0, 0.5), (3600.0, 0.6)):
            tell("working", share)

    drawn = re.findall(r"\d+:\d\d:\d\d", terminal.getvalue())
    assert "1:00:00" in drawn
