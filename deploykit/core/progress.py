"""How long work says where it stands, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float | None], None]
"""Called with what is being done and the share that is done, 0 to 1 (`None`: nobody knows)."""


def silent(message: str, share: float | None) -> None:
    """Tell nobody."""
