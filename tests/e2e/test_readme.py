"""Every shell and Python block of the README runs, in order, in one folder, as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_BY_HAND = "<!-- by hand"
_BLOCK = re.compile(
    r"(?P<mark><!-- by hand[^\n]*\n)?```(?P<kind>sh|python)\n(?P<code>.*?)```", re.DOTALL
)
_LONGEST_S = 600


def _blocks() -> list[tuple[str, str]]:
    text = (_ROOT / "README.md").read_text()
    return [(match["kind"], match["code"]) for match in _BLOCK.finditer(text) if not match["mark"]]


def test_few_blocks_are_left_to_the_reader() -> None:
    """What is not run makes the environment, or trains for minutes; and it says so."""
    assert (_ROOT / "README.md").read_text().count(_BY_HAND) == 3
    assert len(_blocks()) >= 3


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    shutil.copytree(_ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns(".*"))
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for kind, code in _blocks():
        command = ["bash", "-euo", "pipefail", "-c", code]
        if kind == "python":
            command = [sys.executable, "-W", "error", "-c", code]

        ran = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )

        assert ran.returncode == 0, f"{code}\n{ran.stdout}\n{ran.stderr}"
