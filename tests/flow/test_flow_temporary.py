from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from deploykit.flow.temporary import make_temporary

if TYPE_CHECKING:
    from pathlib import Path


def test_what_a_killed_run_left_goes_and_what_is_in_the_making_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".making-{ended.pid}-abc"
    left.mkdir()
    (left / "half.onnx").write_text("half")
    others = [tmp_path / ".making", tmp_path / f"making-{ended.pid}-abc", tmp_path / "model"]
    for folder in others:
        folder.mkdir()
    mine = make_temporary(tmp_path, ".making")

    second = make_temporary(tmp_path, ".making")

    assert not left.exists()
    assert all(folder.is_dir() for folder in (*others, mine, second))
    assert list(second.iterdir()) == []
