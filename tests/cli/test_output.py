"""Tables, JSON and progress: what reaches which stream, and when."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import dataclass

import pytest

from deploykit.cli.output import Column, print_json, print_table, progress
from deploykit.core.records import Schema

COLUMNS = (Column("name"), Column("time", right=True))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Record:
    name: str
    value: float | None


def test_a_piped_table_is_plain_lines_and_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    print_table(COLUMNS, [(long, "1 ms"), ("[red]b[/red]", "12 ms")], title="all of it")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "all of it"
    assert lines[1] == "name" + " " * 298 + " time"
    assert lines[2] == "-" * 300 + "  -----"
    assert lines[3] == f"{long}   1 ms"
    assert lines[4] == "[red]b[/red]" + " " * 288 + "  12 ms"


def test_a_table_on_a_narrow_terminal_folds_and_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    name = "".join(chr(ord("a") + i % 26) for i in range(60)) + "[1..64]"

    print_table(COLUMNS, [(name, "12 ms")])

    lines = re.sub("\x1b.*?m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= 40
    assert name in "".join(line.replace("12 ms", "").strip() for line in lines[3:])


def test_names_in_untrusted_files_do_not_drive_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(COLUMNS, [("\x1b[31mred\nline", "1 ms")], title="\x07bell")

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[31mred line" in out
    assert out.startswith("\\x07bell\n")


def test_an_empty_table_has_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [])
    assert capsys.readouterr().out == "name  time\n----  ----\n"


def test_json_is_one_record_with_its_schema(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json(Record("µ", None), Schema("deploykit/test", 2, 1))

    out = capsysbinary.readouterr().out
    assert json.loads(out) == {
        "schema": "deploykit/test",
        "version": "2.1",
        "name": "µ",
        "value": None,
    }
    assert "µ".encode() in out


def test_progress_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=False) as tell:
        tell("working", 0.5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("quiet", "drawn"), [(True, False), (False, True)])
def test_progress_on_a_terminal(
    quiet: bool, drawn: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress(quiet=quiet) as tell:
        tell("batch of N[1..64]", 0.5)
        tell("still at it", None)
    assert bool(terminal.getvalue()) is drawn
    assert capsys.readouterr().out == ""
