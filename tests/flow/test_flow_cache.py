"""Finished stages are kept and reused; unfinished and damaged ones are made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.types import Io, Preprocessing
from deploykit.export.options import ExportOptions
from deploykit.flow.cache import Cache, key_of


class Stage:
    """Writes its number, and counts how often it was asked to."""

    def __init__(self, ending: type[BaseException] | None = None) -> None:
        self.made = 0
        self.ending = ending

    def make(self, folder: Path) -> None:
        self.made += 1
        (folder / "result").write_text(str(self.made))
        if self.ending is not None:
            raise self.ending

    @staticmethod
    def read(folder: Path) -> int:
        text = (folder / "result").read_text()
        if not text:
            raise BadInputError("cut off")
        return int(text)


def test_the_second_time_nothing_is_made(tmp_path: Path) -> None:
    stage, cache = Stage(), Cache(tmp_path / "cache")

    assert cache.get_or_make("key", stage.make, stage.read) == (1, False)
    assert cache.get_or_make("key", stage.make, stage.read) == (1, True)
    assert cache.get_or_make("other", stage.make, stage.read) == (2, False)
    assert sorted(path.name for path in cache.folder.iterdir()) == [".gitignore", "key", "other"]
    assert (cache.folder / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("ending", [ValueError, KeyboardInterrupt])
def test_a_stage_that_is_interrupted_leaves_nothing(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    stage, cache = Stage(ending), Cache(tmp_path)
    with pytest.raises(ending):
        cache.get_or_make("key", stage.make, stage.read)
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]

    stage.ending = None
    assert cache.get_or_make("key", stage.make, stage.read) == (2, False)


def test_a_stage_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    stage, cache = Stage(), Cache(tmp_path)
    cache.get_or_make("key", stage.make, stage.read)
    (tmp_path / "key" / "result").write_text("")

    assert cache.get_or_make("key", stage.make, stage.read) == (2, False)


def test_another_run_may_be_faster(tmp_path: Path) -> None:
    slow, fast, cache = Stage(), Stage(), Cache(tmp_path)

    def make(folder: Path) -> None:
        slow.make(folder)
        cache.get_or_make("key", fast.make, fast.read)

    assert cache.get_or_make("key", make, slow.read) == (1, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", "key"]


def test_a_place_that_cannot_be_written_is_the_machines_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache, stage = Cache(tmp_path / "file" / "cache"), Stage()
    with pytest.raises(EnvironmentFailedError) as caught:
        cache.get_or_make("key", stage.make, stage.read)

    assert str(caught.value) == f"cannot write the cache {cache.folder}: Not a directory"
    assert stage.made == 0


def test_a_key_changes_with_everything_in_it_and_with_nothing_else() -> None:
    digests = {"weights": "a", "code": "b"}
    parts: list[tuple[object, ...]] = [
        ("export", ExportOptions(), Io(), digests),
        ("verify", ExportOptions(), Io(), digests),
        ("export", ExportOptions(opset=19), Io(), digests),
        ("export", ExportOptions(external_data=True), Io(), digests),
        ("export", ExportOptions(), Io(labels=("a",)), digests),
        ("export", ExportOptions(), Io(preprocessing=Preprocessing(mean=(0.5,))), digests),
        ("export", ExportOptions(), Io(), {**digests, "weights": "c"}),
    ]
    keys = [key_of(*part) for part in parts]

    assert len(set(keys)) == len(keys)
    again = {"code": "b", "weights": "a"}
    assert key_of("export", ExportOptions(opset=20), Io(), again) == keys[0]
    assert key_of(Path("/a"), None, 1.5) == key_of("/a", None, 1.5)
