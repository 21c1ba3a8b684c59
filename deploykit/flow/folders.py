"""Output folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.load.artifacts import RECORD_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that exists, before any work is done for it.

    Args:
        out: where the artifact shall be.
        overwrite: whether one of our own artifacts, or an empty folder, may be replaced.

    Raises:
        BadInputError: it is a file; or it exists without `overwrite`; or it holds something else
            than an artifact, which is never deleted.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise BadInputError(f"{out} is a file: give a folder with --output")
    if not any(out.iterdir()):
        return
    if not (out / RECORD_NAME).is_file():
        raise BadInputError(
            f"{out} holds files that are no deploykit artifact: give another --output"
        )
    if not overwrite:
        raise BadInputError(f"{out} exists already: add --overwrite, or give another --output")


@contextmanager
def writing_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` to write into; it takes the name of `out` when the block ends well.

    Whatever ends the block otherwise, an error or Ctrl-C, leaves nothing behind and what was
    there before untouched.

    Raises:
        BadInputError: as `check_free` does.
        EnvironmentFailedError: the disk is full, or the place cannot be written.
    """
    check_free(out, overwrite=overwrite)
    out = out.absolute()
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        temporary.chmod(0o755)
        yield temporary
        _swap(temporary, out)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, out: Path) -> None:
    """Give `new` the name of `out`; on any failure the old folder is put back."""
    if not out.exists():
        new.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old)
    try:
        new.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
