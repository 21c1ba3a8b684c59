"""Output folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.records import permitted
from deploykit.export.write import DATA_NAME
from deploykit.flow.temporary import make_temporary
from deploykit.load.artifacts import MODEL_NAME, RECORD_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORT_NAME = "report.json"
PRUNING_NAME, DISTILLATION_NAME = "pruning.json", "distillation.json"
SEPARABLE_NAME = "separable.json"
EXITS_NAME, STAGES_NAME = "exits.json", "stages.json"
PLAN_NAME, WEIGHTS_NAME = "plan.json", "weights.safetensors"
"""What a source that was made has."""
PLAN_NAMES = (PLAN_NAME, *(f"plan-{number}.json" for number in range(2, 10)))
"""What its plans are called, in the order in which they are followed."""
DOCUMENT_NAME, ONE_GRAPH_NAME = "STAGES.md", "one_graph.onnx"
STAGE_NAMES = tuple(f"stage{number}.onnx" for number in range(1, 33))
OURS = frozenset(
    {RECORD_NAME, MODEL_NAME, DATA_NAME, REPORT_NAME, EXITS_NAME, STAGES_NAME, DOCUMENT_NAME}
    | {ONE_GRAPH_NAME}
    | set(STAGE_NAMES)
)


def check_free(out: Path, *, overwrite: bool, ours: frozenset[str] = OURS) -> None:
    """Refuse an output folder that exists, before any work is done for it.

    Args:
        out: where the artifact shall be.
        overwrite: whether one of our own artifacts may be replaced. An empty folder always may.
        ours: the files that such an artifact may have.

    Raises:
        BadInputError: it, or a folder on the way to it, is a file; or it exists without
            `overwrite`; or it holds anything else than an artifact, which is never deleted.
    """
    try:
        _check_free(out, overwrite=overwrite, ours=ours)
    except OSError as error:
        raise BadInputError(f"cannot write to {out}: {error.strerror}") from error


def _check_free(out: Path, *, overwrite: bool, ours: frozenset[str]) -> None:
    if not out.exists():
        for folder in out.absolute().parents:
            if folder.exists() and not folder.is_dir():
                raise BadInputError(f"{folder} is a file: give another --output")
        return
    if not out.is_dir():
        raise BadInputError(f"{out} is a file: give a folder with --output")
    if Path.cwd().is_relative_to(out.resolve()):
        raise BadInputError(f"{out} is where you are, and cannot be replaced: give a new --output")
    names = {path.name for path in out.iterdir()}
    # Without its record a model.onnx is somebody else's: ours are never without.
    known = ours & {RECORD_NAME, PRUNING_NAME, DISTILLATION_NAME, SEPARABLE_NAME, EXITS_NAME}
    strange = sorted(names - ours if names & known else names)
    if strange:
        raise BadInputError(
            f"{out} holds files that are no deploykit artifact ({', '.join(strange[:3])}): give "
            "another --output"
        )
    if names and not overwrite:
        raise BadInputError(f"{out} exists already: add --overwrite, or give another --output")


@contextmanager
def writing_folder(out: Path, *, overwrite: bool, ours: frozenset[str] = OURS) -> Iterator[Path]:
    """A folder beside `out` to write into; it takes the name of `out` when the block ends well.

    Whatever ends the block otherwise, an error or Ctrl-C, leaves nothing behind and what was
    there before untouched.

    Raises:
        BadInputError: as `check_free` does.
        EnvironmentFailedError: the disk is full, or the place cannot be written.
    """
    check_free(out, overwrite=overwrite, ours=ours)
    out = out.resolve()  # through links, so that the new folder is on the same disk as the old
    missing = [folder for folder in out.parents if not folder.exists()]
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = make_temporary(out.parent, f".{out.name}.new")
        temporary.chmod(permitted(0o777))
        yield temporary
        _swap(temporary, out)
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # not empty: the block ended well, or someone else is at work there
            for folder in missing:
                folder.rmdir()


def _swap(new: Path, out: Path) -> None:
    """Give `new` the name of `out`; on any failure the old folder is put back."""
    if not out.exists():
        new.rename(out)
        return
    old = make_temporary(out.parent, f".{out.name}.old")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
