"""Packages that a file pins, in a folder of their own beside .venv."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def is_ready(pins: Path, folder: Path) -> bool:
    """Whether the folder has what the file pins: a copy of it is written there last."""
    mark = folder / pins.name
    return mark.is_file() and mark.read_bytes() == pins.read_bytes()


def install(pins: Path, folder: Path, root: Path, of: str) -> None:
    """Fill the folder, where it is not ready; ends the program with one line where pip fails.

    Args:
        pins: requirements, installed without what they depend on.
        folder: made anew.
        root: the file is named from there.
        of: what the benchmarks that need it are of, for the error.
    """
    if is_ready(pins, folder):
        return
    fresh = folder.with_name(f"{folder.name}.new")
    for one in (fresh, folder):
        shutil.rmtree(one, ignore_errors=True)
    named = pins.relative_to(root)
    print(f"installing what {named} pins into {folder.name}", flush=True)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--target", str(fresh), "--requirement", str(pins)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        sys.exit(
            f"pip could not install {named}: "
            f"{errors[-1] if errors else f'exit status {ended.returncode}'}; the benchmarks of "
            f"{of} need a package index for it, once"
        )
    shutil.copyfile(pins, fresh / pins.name)
    fresh.rename(folder)
