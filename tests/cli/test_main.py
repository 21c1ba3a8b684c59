"""The console script: finding commands, and every way in which one can end."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
import pytest

from deploykit import __version__
from deploykit.cli import main as front
from deploykit.core.errors import (
    BadInputError,
    CannotTellError,
    CheckFailedError,
    EnvironmentFailedError,
    ExitStatus,
    MissingExtraError,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that raises what it is given; gives back the exit status."""

    def run(error: BaseException) -> int:
        @click.command("work")
        def command() -> None:
            raise error

        module = ModuleType("a_command_of_this_test")
        module.command = command  # type: ignore[attr-defined]  # a module made on the spot
        monkeypatch.setitem(sys.modules, module.__name__, module)
        line = front.CommandLine("work", module.__name__, "ends at once")
        monkeypatch.setattr(front, "COMMANDS", (line,))
        return front.main(["work"])

    return run


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CheckFailedError("x differs by 3"), 1),
        (BadInputError("no file x"), 2),
        (MissingExtraError("torch is not installed"), 3),
        (CannotTellError("too few samples"), 4),
        (EnvironmentFailedError("disk full"), 5),
        (click.UsageError("no such thing"), 2),
        (click.FileError("a.txt", "is locked"), 2),
    ],
)
def test_an_expected_error_is_one_line_and_its_status(
    error: Exception, status: int, ending: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert ending(error) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("deploykit: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "ran out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), "ran out of"),
        (OSError(errno.ENOSPC, "No space left on device", "x.onnx"), "No space left on device"),
    ],
)
def test_the_machines_failures_are_5(
    error: Exception, words: str, ending: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert ending(error) == ExitStatus.ENVIRONMENT_FAILED
    assert words in capsys.readouterr().err


def test_anything_else_is_our_bug_and_its_traceback_is_kept(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(KeyError("nobody expected this")) == 70
    err = capsys.readouterr().err
    assert f"this is a bug of deploykit {__version__}: KeyError: 'nobody expected this'" in err
    assert err.count("\n") == 1
    path = Path(err.rsplit(" ", 1)[1].strip())
    try:
        assert "Traceback (most recent call last)" in path.read_text()
    finally:
        path.unlink()


def test_a_traceback_is_printed_only_on_request(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ending(BadInputError("no file x"))
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("DEPLOYKIT_TRACEBACK", "1")
    ending(BadInputError("no file x"))
    assert "Traceback" in capsys.readouterr().err


def test_a_message_of_several_lines_becomes_one(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    ending(BadInputError("first\nsecond"))
    assert capsys.readouterr().err == "deploykit: error: first second\n"


def test_ctrl_c_is_130(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "deploykit: error: interrupted\n"


def test_a_command_may_choose_its_status(ending: Callable[[BaseException], int]) -> None:
    assert ending(click.exceptions.Exit(1)) == 1
    assert ending(SystemExit(4)) == 4


def test_an_unknown_command_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["exprot"]) == 2
    assert capsys.readouterr().err == (
        "deploykit: error: there is no command 'exprot'; did you mean 'export'?; "
        "see deploykit --help\n"
    )


def test_an_unknown_option_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["inspect", "x.onnx", "--bacth", "3"]) == 2
    err = capsys.readouterr().err
    assert "--bacth" in err
    assert "--batch" in err
    assert "see deploykit inspect --help" in err
    assert err.count("\n") == 1


def test_no_arguments_print_the_help_as_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: deploykit")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["--version"]) == 0
    assert capsys.readouterr().out == f"deploykit {__version__}\n"


def test_help_lists_every_command_and_every_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert front.main(["--help"]) == 0
    out = capsys.readouterr().out
    for line in front.COMMANDS:
        assert re.search(rf"^  {line.name} +{re.escape(line.help)}$", out, re.MULTILINE)
    shown = {int(number) for number in re.findall(r"^ +(\d+)  +\w", out, re.MULTILINE)}
    quiet = {ExitStatus.BROKEN_PIPE, ExitStatus.TERMINATED}
    assert shown == {int(status) for status in ExitStatus} - quiet


@pytest.mark.parametrize("line", front.COMMANDS, ids=lambda line: line.name)
def test_every_command_is_there_under_its_name(line: front.CommandLine) -> None:
    command = front.cli.get_command(click.Context(front.cli), line.name)
    assert command is not None
    assert command.name == line.name
    assert command.help, "its help starts with what it does"
    assert r"\b" not in command.help, "click's mark for lines to keep as they are, misspelt"


def test_python_m_deploykit_is_the_same() -> None:
    ended = _run("--version")
    assert ended.stdout == f"deploykit {__version__}\n"
    assert _run("exprot").returncode == 2


_WORK = """
import signal, sys
import click
import deploykit.cli.main as front

@click.command("work")
def command():
    try:
        print("ready", flush=True)
        signal.pause()
    finally:
        print("undone", flush=True)

sys.modules["work"] = type(sys)("work")
sys.modules["work"].command = command
front.COMMANDS = (front.CommandLine("work", "work", "waits"),)
sys.exit(front.main(["work"]))
"""


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_stopped_command_undoes_its_work(number: int, status: int, word: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WORK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=60)

    assert child.returncode == status
    assert out == "undone\n"
    assert err == f"deploykit: error: {word}\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "deploykit", "schema", "bench"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        err = child.stderr.read()

    assert child.returncode == 141
    assert err == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_standard_output() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "deploykit", "schema", "bench"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 5
    assert ended.stderr == "deploykit: error: the machine failed: No space left on device\n"


@pytest.mark.parametrize(("args", "status"), [("--version >&-", 0), ("exprot 2>&-", 2)])
def test_closed_streams(args: str, status: int) -> None:
    line = f"{sys.executable} -m deploykit {args}"
    assert subprocess.run(["sh", "-c", line], capture_output=True, check=False).returncode == status


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploykit", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


def test_of_several_processes_the_first_alone_has_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert front.main(["schema"]) == 0
    assert front.main(["schema", "nothing-like-it"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("deploykit: error in process 1: ")
    assert "nothing-like-it" in said.err

    monkeypatch.setenv("RANK", "0")
    assert front.main(["schema"]) == 0
    assert "report" in capsys.readouterr().out
