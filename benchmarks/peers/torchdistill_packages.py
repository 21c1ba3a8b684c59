"""torchdistill beside .venv: in a folder of its own, `.bench/torchdistill`, never in .venv."""

from __future__ import annotations

import sys

from benchmarks import packages, pinned
from benchmarks.packages import BENCH, ROOT

FOLDER = BENCH / "torchdistill"
PINS = ROOT / "benchmarks" / "peers" / "torchdistill.txt"


def ready() -> bool:
    """Whether the folder has what `torchdistill.txt` pins."""
    return pinned.is_ready(PINS, FOLDER)


def install() -> None:
    """Fill the folder, where it is not ready; ends the program with one line where pip fails."""
    pinned.install(PINS, FOLDER, ROOT, "distillation")


def on_path() -> None:
    """Make it importable in this process, which should be a child's; torchvision with it."""
    packages.on_path()
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
