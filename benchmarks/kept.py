"""Outcomes of single networks, kept in `.bench`, so that an interrupted benchmark goes on.

They are kept under a key of everything that they depend on: code, pins, versions and machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from benchmarks.outcome import Outcome
from benchmarks.packages import BENCH
from benchmarks.results_file import machine_line
from deploykit.core.records import writing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kept:
    """What one tool made of the networks.

    Attributes:
        folder: one file a network.
    """

    folder: Path

    @classmethod
    def under(cls, name: str, sources: Iterable[Path]) -> Kept:
        """For this machine and the present content of some files.

        Args:
            name: of the tool.
            sources: the files that decide what it makes of a network.
        """
        total = hashlib.sha256(machine_line().encode())
        for path in sorted(sources):
            total.update(path.name.encode() + path.read_bytes())
        return cls(BENCH / "kept" / f"{name}-{total.hexdigest()[:12]}")

    def load(self, key: str) -> Outcome | None:
        """A finished outcome, if there is one."""
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=Outcome)
        except (OSError, msgspec.MsgspecError):
            return None

    def save(self, outcome: Outcome) -> None:
        """Keep a finished outcome."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with writing(self._path(outcome.network)) as file:
            file.write(msgspec.json.encode(outcome))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key.replace('/', '-')}.json"
