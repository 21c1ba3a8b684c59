"""How long `deploykit --help` keeps a user waiting, against the library that it is made with."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from statistics import median
from time import perf_counter_ns

from benchmarks.result import Figure, Result

GOAL = '`deploykit --help` takes at most 1.5 times as long as `python -c "import click"`.'
_MOST = 1.5
_ROUNDS, _QUICK_ROUNDS = 40, 5


def run(*, quick: bool) -> Result:
    """Child processes in turn, one of each a round; medians over the rounds."""
    script = str(Path(sysconfig.get_path("scripts")) / "deploykit")
    commands = {
        "click": [sys.executable, "-c", "import click"],
        "help": [script, "--help"],
        "version": [script, "--version"],
        "python": [sys.executable, "-c", "pass"],
    }
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():  # the first start reads files from disk
        _milliseconds(command)
    for _ in range(_QUICK_ROUNDS if quick else _ROUNDS):
        for name, command in commands.items():
            spent[name].append(_milliseconds(command))
    found = {name: median(values) for name, values in spent.items()}
    ratio = found["help"] / found["click"]
    return Result(
        (
            Figure("deploykit --help", found["help"], "ms"),
            Figure("deploykit --version", found["version"], "ms"),
            Figure("import click", found["click"], "ms"),
            Figure("python alone", found["python"], "ms"),
            Figure("--help by import click", ratio, "x", f"at most {_MOST}", met=ratio <= _MOST),
        )
    )


def _milliseconds(command: list[str]) -> float:
    began = perf_counter_ns()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (perf_counter_ns() - began) / 1e6
