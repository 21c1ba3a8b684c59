"""Finished stages, kept by the hash of everything that went into them.

The cache is a folder of folders named by key. A stage that is interrupted leaves nothing under
its key, so that the next run starts there and reuses all that is before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.flow.temporary import make_temporary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
FOLDER_NAME = ".deploykit"
_KEY_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Cache:
    """Where finished stages are kept.

    Attributes:
        folder: made when it is first written to, with a `.gitignore` of its own.
    """

    folder: Path

    def get_or_make(
        self, key: str, make: Callable[[Path], None], read: Callable[[Path], T]
    ) -> tuple[T, bool]:
        """A finished stage, made now if it is not there or is damaged.

        Args:
            key: from `key_of`.
            make: fills the empty folder that it is given.
            read: reads the result from its folder; `BadInputError` means that it is damaged.

        Returns:
            What `read` gave, and whether it was there already.

        Raises:
            EnvironmentFailedError: it cannot be written.
        """
        place = self.folder / key
        if place.is_dir():
            try:
                return read(place), True
            except BadInputError:
                shutil.rmtree(place, ignore_errors=True)
        temporary: Path | None = None
        try:
            kept_folder(self.folder)
            temporary = make_temporary(self.folder, ".making")
            make(temporary)
            if not place.is_dir():  # another run may have been faster
                temporary.rename(place)
        except OSError as error:
            raise EnvironmentFailedError(
                f"cannot write the cache {self.folder}: {error.strerror or error}"
            ) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        return read(place), False

    def drop(self, key: str) -> None:
        """Forget a stage."""
        shutil.rmtree(self.folder / key, ignore_errors=True)


def kept_folder(folder: Path) -> Path:
    """The folder, made if need be, with a `.gitignore` that keeps all of it out of a repository.

    Raises:
        EnvironmentFailedError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ".gitignore").exists():
            (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        raise EnvironmentFailedError(
            f"cannot write the cache {folder}: {error.strerror or error}"
        ) from error
    return folder


def key_of(*parts: object) -> str:
    """The key of a stage, from everything that its result depends on.

    Args:
        parts: records, options, digests, versions: whatever becomes JSON.
    """
    everything = msgspec.to_builtins(parts, enc_hook=str)
    text = json.dumps(everything, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]
