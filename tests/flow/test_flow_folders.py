"""Output folders: whole or not at all, and nothing of anyone else's is deleted."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.flow.folders import check_free, writing_folder

if TYPE_CHECKING:
    from pathlib import Path


def tree(folder: Path) -> dict[str, str]:
    """Every file with its content, and every empty folder."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def fill(folder: Path, text: str) -> None:
    (folder / "artifact.json").write_text(text)
    (folder / "model.onnx").write_text(text)


def test_a_folder_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with writing_folder(out, overwrite=False) as folder:
        fill(folder, "new")
        assert not out.exists()

    assert tree(tmp_path) == {"deep/out/artifact.json": "new", "deep/out/model.onnx": "new"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


@pytest.mark.parametrize("ending", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_block_leaves_nothing(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    out = tmp_path / "a" / "b" / "out"
    failing = pytest.raises(ending)
    with failing, writing_folder(out, overwrite=False) as folder:
        fill(folder, "half")
        raise ending

    assert tree(tmp_path) == {}


@pytest.mark.parametrize("ending", [ValueError, KeyboardInterrupt])
def test_whatever_ends_the_block_leaves_what_was_there(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    failing = pytest.raises(ending)
    with failing, writing_folder(out, overwrite=True) as folder:
        fill(folder, "half")
        raise ending

    assert tree(tmp_path) == {"out/artifact.json": "old", "out/model.onnx": "old"}


def test_overwrite_swaps_the_whole_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    (out / "model.onnx.data").write_text("old")
    with writing_folder(out, overwrite=True) as folder:
        fill(folder, "new")
        assert (out / "model.onnx").read_text() == "old"

    assert tree(tmp_path) == {"out/artifact.json": "new", "out/model.onnx": "new"}


def test_an_empty_folder_needs_no_overwrite(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with writing_folder(tmp_path / "out", overwrite=False) as folder:
        fill(folder, "new")

    assert (tmp_path / "out" / "model.onnx").read_text() == "new"


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    fill(real, "old")
    link.symlink_to(real)
    with writing_folder(link, overwrite=True) as folder:
        fill(folder, "new")

    assert link.is_symlink()
    assert (real / "model.onnx").read_text() == "new"


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    failing = pytest.raises(EnvironmentFailedError, match=f"cannot write {out}: ")
    with failing, writing_folder(out, overwrite=True) as folder:
        folder.rmdir()  # so that there is nothing to rename

    assert tree(tmp_path) == {"out/artifact.json": "old", "out/model.onnx": "old"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["notes.txt"], "notes.txt"),
        (["artifact.json", "model.onnx", "notes.txt"], "notes.txt"),
        (["model.onnx"], "model.onnx"),  # a file from elsewhere: ours have their record
    ],
)
def test_other_peoples_files_are_never_deleted(
    tmp_path: Path, names: list[str], shown: str, overwrite: bool
) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(BadInputError) as caught:
        check_free(tmp_path, overwrite=overwrite)

    assert str(caught.value) == (
        f"{tmp_path} holds files that are no deploykit artifact ({shown}): give another --output"
    )


def test_what_is_in_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    fill(artifact, "old")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    long = tmp_path / ("n" * 300)
    for out, overwrite, words in (
        (tmp_path / "file", True, f"{tmp_path}/file is a file: give a folder with --output"),
        (tmp_path / "file" / "a" / "b", True, f"{tmp_path}/file is a file: give another --output"),
        (
            artifact,
            False,
            f"{artifact} exists already: add --overwrite, or give another --output",
        ),
        (
            tmp_path / "here",
            True,
            f"{tmp_path}/here is where you are, and cannot be replaced: give a new --output",
        ),
        (long, False, f"cannot write to {long}: File name too long"),
    ):
        with pytest.raises(BadInputError) as caught:
            check_free(out, overwrite=overwrite)
        assert str(caught.value) == words
    check_free(artifact, overwrite=True)
    check_free(tmp_path / "new", overwrite=False)


def test_a_write_that_fails_is_the_machines_failure(tmp_path: Path) -> None:
    failing = pytest.raises(EnvironmentFailedError)
    with failing as caught, writing_folder(tmp_path / "out", overwrite=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert str(caught.value) == f"cannot write {tmp_path}/out: No space left on device"
    assert tree(tmp_path) == {}
