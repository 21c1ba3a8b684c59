"""Folders for work in progress, which the next run clears away where a run was killed.

`kill -9` and a power cut leave what no `finally` can remove. The folder's name says which process
made it, so that the next run there can tell what is left from what is in the making.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path


def make_temporary(place: Path, prefix: str) -> Path:
    """A new folder in `place`, after what dead processes of this prefix left has been removed.

    Args:
        place: existing.
        prefix: of the name, such as ".making"; the process's number follows.

    Raises:
        OSError: it cannot be made.
    """
    mine = re.compile(rf"{re.escape(prefix)}-(\d+)-\w+")
    for folder in place.iterdir():
        match = mine.fullmatch(folder.name)
        if match and not _is_alive(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-", dir=place))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and someone else's
        return True
    return True
