"""Records: what is written is read back, newer fields survive, and nothing is half-written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploykit.core import records
from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.core.measurement import (
    Machine,
    Measurement,
    Samples,
    Status,
    Target,
)
from deploykit.core.records import ONNX_ARTIFACT, REPORT, Schema
from deploykit.core.report import Check, Report, Verdict
from deploykit.core.types import (
    Dim,
    File,
    Io,
    OnnxArtifact,
    Preprocessing,
    Step,
    TensorSpec,
)

SCHEMA = Schema("deploykit/test", major=2, minor=1)


@dataclass(frozen=True)
class Inner:
    name: str
    value: float | None = None


@dataclass(frozen=True)
class Outer:
    title: str
    one: Inner
    many: tuple[Inner, ...] = ()
    folder: Path = field(default=Path(), metadata={"in_record": False})


ARTIFACT = OnnxArtifact(
    files=(File("model.onnx", "ab" * 32, 1234, "model"),),
    inputs=(TensorSpec("x", "float32", (Dim("N", 1, 64), 3, 8, 8)),),
    outputs=(TensorSpec("y", "float32", (Dim("N", 1, None), 10)),),
    io=Io("classification", ("µ", "b"), Preprocessing(mean=(0.5,), std=(0.25,))),
    history=(Step("load", {"seed": 1, "inputs": ("a", "b")}, {"code": "cd" * 32}, {"torch": "2"}),),
    folder=Path("/somewhere/private"),
)


def test_an_artifact_is_read_back_and_its_folder_is_not_in_the_record() -> None:
    data = records.encode(ARTIFACT, ONNX_ARTIFACT)

    assert records.decode(data, OnnxArtifact, ONNX_ARTIFACT, "a.json") == ARTIFACT
    assert b"private" not in data
    assert data.endswith(b"}\n")
    raw = json.loads(data)
    assert (raw["schema"], raw["version"]) == ("deploykit/artifact-onnx", "1.0")


def test_a_report_with_every_kind_of_value_is_read_back() -> None:
    machine = Machine(
        cpu="cpu", arch="x86_64", instruction_sets=("avx2",), cores=2, memory_bytes=None,
        governor=None, turbo=None, virtual="kvm", load_average=0.5, gpu=None, driver=None,
        os="Linux", versions={"python": "3.11"},
    )  # fmt: skip
    measurement = Measurement(
        name="a", artifact_digest="00", machine=machine, input_digest=None, status=Status.FAILED,
        target=Target("ort-cpu", cpus=(0, 1), shapes={"x": (1, 3)}), error="crashed",
        samples=Samples((5,), (0,), (0,), (0,)),
    )  # fmt: skip
    check = Check("parity", Verdict.CANNOT_TELL, 1e-5, (0.0, 1.0), None, "points", "more data")
    report = Report("00", (check,), (measurement,))

    assert records.decode(records.encode(report, REPORT), Report, REPORT, "r") == report
    assert not report.passed


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.99"])
def test_any_minor_version_of_the_same_major_is_read(version: str) -> None:
    data = _json(version=version, title="t", one={"name": "n"})

    assert records.decode(data, Outer, SCHEMA, "x.json") == Outer("t", Inner("n"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "3.0"}, "x.json has version 3.0 of deploykit/test; this deploykit reads 2.x"),
        ({"version": "1.9"}, "has version 1.9"),
        ({"version": "two"}, "x.json has no version like '1.0': 'two'"),
        ({"version": None}, "no version like '1.0'"),
        ({"schema": "other"}, "x.json is not a deploykit/test record: its schema is 'other'"),
        ({"title": 3}, r"x.json is not a valid deploykit/test record: .*title"),
        ({"one": {}}, r"not a valid deploykit/test record: .*name"),
    ],
)
def test_other_records_are_refused(change: dict[str, object], words: str) -> None:
    data = _json(**{"version": "2.1", "title": "t", "one": {"name": "n"}, **change})

    with pytest.raises(BadInputError, match=words):
        records.decode(data, Outer, SCHEMA, "x.json")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "x.json is not JSON"),
        (b'{"a": 1', "x.json is not JSON"),
        (b"\xff\xfe", "x.json is not JSON"),
        (b"[" * 100_000, "x.json is not JSON"),
        (b"[1]", "x.json is not a record: it holds a JSON list"),
    ],
)
def test_what_is_not_a_json_object_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        records.decode(data, Outer, SCHEMA, "x.json")


def test_not_a_number_is_never_written() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        records.encode(Inner("x", float("nan")), SCHEMA)


def test_update_keeps_unknown_fields_at_every_depth(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(
        _json(
            version="2.7",
            title="old",
            one={"name": "n", "new": 1},
            many=[{"name": "a", "new": 2}, {"name": "b"}],
            newest=[3],
        )
    )

    records.update(path, Outer("t", Inner("m", 0.5), (Inner("a"), Inner("c"))), SCHEMA)

    assert json.loads(path.read_bytes()) == {
        "schema": "deploykit/test",
        "version": "2.7",
        "title": "t",
        "one": {"name": "m", "value": 0.5, "new": 1},
        "many": [{"name": "a", "value": None, "new": 2}, {"name": "c", "value": None}],
        "newest": [3],
    }
    assert records.load(path, Outer, SCHEMA).title == "t"


def test_update_raises_an_older_minor_version(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(_json(version="2.0", title="old", one={"name": "n"}))

    records.update(path, Outer("t", Inner("n")), SCHEMA)

    assert json.loads(path.read_bytes())["version"] == "2.1"


def test_a_record_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"cannot read .*none.json: No such file"):
        records.load(tmp_path / "none.json", Outer, SCHEMA)


def test_save_respects_the_umask_and_leaves_one_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        records.save(tmp_path / "x.json", Outer("t", Inner("n")), SCHEMA)
    finally:
        os.umask(before)

    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o640


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")

    def interrupted() -> None:
        with records.writing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


_WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
from deploykit.core.errors import EnvironmentFailedError
from deploykit.core.records import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"x" * 100_000)
except EnvironmentFailedError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path: Path) -> None:
    """The system's own limit on a file's size stands in for a full disk: writing stops midway."""
    path = tmp_path / "x.json"
    path.write_text("old")

    ended = subprocess.run(
        [sys.executable, "-c", _WRITE_TOO_MUCH, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stderr == f"refused: cannot write {path}: File too large\n"
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_through_a_link_what_it_points_at_is_written(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_bytes(b"old")
    (tmp_path / "link.json").symlink_to("old.json")

    records.write_bytes(tmp_path / "link.json", b"new")

    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "old.json").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    records.write_bytes(pipe, b"through")

    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_device_that_is_full_is_told_and_stays_a_device(tmp_path: Path) -> None:
    full = tmp_path / "link"
    full.symlink_to("/dev/full")

    with pytest.raises(EnvironmentFailedError, match=r"cannot write .*link: No space left"):
        records.write_bytes(full, b"too much")

    assert Path("/dev/full").is_char_device()


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "none" / "x.json"
    with pytest.raises(EnvironmentFailedError, match=r"cannot write .*: No such file"):
        records.write_bytes(path, b"")


def test_digests(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 7)
    (tmp_path / "f").write_bytes(data)

    assert records.sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    with pytest.raises(BadInputError, match="cannot read"):
        records.sha256_of(tmp_path)


@pytest.mark.parametrize(
    "relative",
    ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "x\0y", "link/x", "link"],
)
def test_paths_of_a_record_stay_in_its_folder(relative: str, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)

    with pytest.raises(BadInputError, match="outside the folder"):
        records.inside(folder, relative)


@pytest.mark.parametrize("relative", ["model.onnx", "a/b", "a/./b", "..x"])
def test_paths_inside_are_given_back(relative: str, tmp_path: Path) -> None:
    assert records.inside(tmp_path, relative) == tmp_path / relative


def _json(**fields: object) -> bytes:
    return json.dumps({"schema": "deploykit/test", **fields}).encode()
