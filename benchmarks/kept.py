"""Outcomes of single networks, or runs of training, kept so that an interrupted benchmark goes on.

They lie in `.bench`, under a key of all that they depend on: code, pins, versions and machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from benchmarks.packages import BENCH
from benchmarks.results_file import machine_line
from deploykit.core.records import writing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """What one tool made of the networks.

    Attributes:
        kind: of what is kept: a dataclass.
        folder: one file a network.
    """

    kind: type[T]
    folder: Path

    @classmethod
    def under(cls, kind: type[T], name: str, sources: Iterable[Path]) -> Kept[T]:
        """For this machine and the present content of some files.

        Args:
            kind: of what is kept.
            name: of the tool.
            sources: the files that decide what it makes of a network.
        """
        total = hashlib.sha256(machine_line().encode())
        for path in sorted(sources):
            total.update(path.name.encode() + path.read_bytes())
        return cls(kind, BENCH / "kept" / f"{name}-{total.hexdigest()[:12]}")

    def load(self, key: str) -> T | None:
        """A finished outcome, if there is one."""
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=self.kind)
        except (OSError, msgspec.MsgspecError):
            return None

    def save(self, key: str, outcome: T) -> None:
        """Keep a finished outcome."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with writing(self._path(key)) as file:
            file.write(msgspec.json.encode(outcome))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key.replace('/', '-')}.json"
