"""NNCF and what it needs beside .venv: in a folder of its own, `.bench/int8`, never in .venv."""

from __future__ import annotations

import sys

from benchmarks import pinned
from benchmarks.packages import BENCH, ROOT

FOLDER = BENCH / "int8"
PINS = ROOT / "benchmarks" / "peers" / "int8.txt"


def ready() -> bool:
    """Whether the folder has what `int8.txt` pins."""
    return pinned.is_ready(PINS, FOLDER)


def install() -> None:
    """Fill the folder, where it is not ready; ends the program with one line where pip fails."""
    pinned.install(PINS, FOLDER, ROOT, "quantization")


def on_path() -> None:
    """Make the folder's packages importable in this process, which should be a child's."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
