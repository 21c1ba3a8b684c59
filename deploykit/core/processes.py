"""Which of several processes this is, where a launcher (torchrun, accelerate) started them.

Standard library only: commands ask before anything heavy is loaded.
"""

from __future__ import annotations

import os


def is_main() -> bool:
    """Whether this process writes files and talks to the user: the only one, or the first."""
    return os.environ.get("RANK", "0") == "0"
