"""NNCF and what it needs beside .venv: in a folder of its own, `.bench/int8`, never in .venv."""

from __future__ import annotations

import shutil
import subprocess
import sys

from benchmarks.packages import BENCH, ROOT

FOLDER = BENCH / "int8"
PINS = ROOT / "benchmarks" / "peers" / "int8.txt"
_MARK = "int8.txt"  # a copy in the folder, written last: what is installed there


def ready() -> bool:
    """Whether the folder has what `int8.txt` pins."""
    mark = FOLDER / _MARK
    return mark.is_file() and mark.read_bytes() == PINS.read_bytes()


def install() -> None:
    """Fill the folder, where it is not ready; ends the program with one line where pip fails."""
    if ready():
        return
    fresh = FOLDER.with_name("int8.new")
    for folder in (fresh, FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    print(f"installing what {PINS.relative_to(ROOT)} pins into {FOLDER.name}", flush=True)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--target", str(fresh), "--requirement", str(PINS)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        sys.exit(
            f"pip could not install {PINS.relative_to(ROOT)}: "
            f"{errors[-1] if errors else f'exit status {ended.returncode}'}; the benchmarks of "
            "quantization need a package index for it, once"
        )
    shutil.copyfile(PINS, fresh / _MARK)
    fresh.rename(FOLDER)


def on_path() -> None:
    """Make the folder's packages importable in this process, which should be a child's."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
