"""How benchmarks are printed and kept: their figures are their own affair."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from benchmarks import NAMES
from benchmarks import __main__ as runner
from benchmarks.result import Figure, Result
from benchmarks.results_file import RESULTS, Entry, Keep, write_entry

if TYPE_CHECKING:
    from pathlib import Path

MET = Result((Figure("time", 12.3456, "ms"), Figure("ratio", 1.2, "x", "at most 1.5", met=True)))
SHORT = Result((*MET.figures, Figure("peak", 3.0, "%", "within 1 %", met=False)))
ENTRY = Entry("Is it quick?", MET, "2026-01-02", "0123456789", "a CPU, 2 CPUs")


def test_the_verdict_is_the_last_line_and_says_why() -> None:
    assert runner.verdict("memory", MET) == "memory: met"
    assert runner.verdict("memory", SHORT) == "memory: short: peak is 3 %, goal within 1 %"
    assert [runner.line(figure) for figure in SHORT.figures] == [
        "time: 12.35 ms",
        "ratio: 1.2 x   goal: at most 1.5",
        "peak: 3 %   goal: within 1 %: SHORT",
    ]


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_entry(path, "memory", ENTRY)
    write_entry(path, "startup", replace(ENTRY, result=SHORT))
    before = path.read_text()

    write_entry(path, "memory", replace(ENTRY, day="2026-03-04"))

    text = path.read_text()
    assert text == before.replace("2026-01-02", "2026-03-04").replace("2026-03-04", "2026-01-02", 1)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## startup",
        "## memory",
    ]
    assert "| peak | 3 % | within 1 % | **short** |" in text
    assert "2026-03-04, commit 0123456789, a CPU, 2 CPUs." in text


def test_a_finished_result_is_kept_for_an_interrupted_run(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "0123456789-machine")
    assert keep.load("memory") is None
    keep.save("memory", ENTRY)

    assert keep.load("memory") == ENTRY
    assert keep.load("startup") is None
    assert Keep(tmp_path / "abcdef-machine").load("memory") is None


def test_a_result_of_changed_files_is_not_believed(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "0123456789+-machine")
    keep.save("memory", ENTRY)

    assert keep.load("memory") is None


def test_a_kept_result_that_is_cut_off_is_asked_again(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "0123456789-machine")
    keep.save("memory", ENTRY)
    path = keep.folder / "memory.json"
    path.write_bytes(path.read_bytes()[:-9])

    assert keep.load("memory") is None


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_states_its_goal(name: str) -> None:
    module = import_module(f"benchmarks.{name}")

    assert module.GOAL.endswith(".")
    assert callable(module.run)


def test_an_unknown_benchmark_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runner.main(["spead"])
    assert ended.value.code == 2
    assert "startup" in capsys.readouterr().err


@pytest.mark.slow
def test_startup_runs_and_prints_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    status = runner.main(["startup", "--quick"])

    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(("startup: met", "startup: short: "))
    assert status == (0 if last == "startup: met" else 1)
    assert RESULTS.name == "RESULTS.md"
