"""Records as JSON files: a schema with its version, atomic writes, unknown fields kept.

The rule of versions: a record says `"schema": "NAME"` and `"version": "MAJOR.MINOR"`. A reader
takes every record of its own major version; a newer minor version only adds fields, which older
readers leave alone (`load`) and keep (`update`). A change that would break readers raises the
major version.

Nothing in a record is ever executed or imported, and the paths in it stay inside its folder
(`inside`).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, TypeVar

import msgspec

from deploykit.core.errors import BadInputError, EnvironmentFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Schema:
    """Name and version of one kind of record.

    Attributes:
        name: "deploykit/artifact-onnx" and the like.
        major: records of another major version are refused.
        minor: raised when fields are added.
    """

    name: str
    major: int = 1
    minor: int = 0

    @property
    def version(self) -> str:
        """As it stands in the record."""
        return f"{self.major}.{self.minor}"


ONNX_ARTIFACT = Schema("deploykit/artifact-onnx")
ENGINE_ARTIFACT = Schema("deploykit/artifact-engine")
REPORT = Schema("deploykit/report")


def encode(value: object, schema: Schema) -> bytes:
    """The JSON of a record, with its schema, ending in a newline.

    Args:
        value: a dataclass instance.
        schema: what to call it.
    """
    return _dump(_fields(value, schema))


def decode(data: bytes, kind: type[T], schema: Schema, name: str) -> T:
    """Read a record.

    Args:
        data: JSON.
        kind: the dataclass that it holds.
        schema: what it must say it is; any minor version of the same major one is read.
        name: what to call it in an error, usually the file's name.

    Raises:
        BadInputError: not JSON, another schema, another major version, or a field that does not
            fit, with its place.
    """
    raw = parse_object(data, name)
    _check_schema(raw, schema, name)
    try:
        return msgspec.convert(raw, kind, strict=True, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        raise BadInputError(f"{name} is not a valid {schema.name} record: {error}") from error


def load(path: Path, kind: type[T], schema: Schema) -> T:
    """Read the record in the file `path`; see `decode`.

    Raises:
        BadInputError: there is no such file, or as in `decode`.
    """
    return decode(read_bytes(path), kind, schema, str(path))


def save(path: Path, value: object, schema: Schema) -> None:
    """Write a record, all of it or nothing."""
    write_bytes(path, encode(value, schema))


def update(path: Path, value: object, schema: Schema) -> None:
    """Write a record over an older one, and keep the fields of it that we do not know.

    A newer deploykit may have written them; they are kept at every depth, in lists where the
    length did not change.
    """
    raw = parse_object(read_bytes(path), path.name)
    _check_schema(raw, schema, path.name)
    new = _fields(value, schema)
    new["version"] = max(str(raw["version"]), schema.version, key=_version)
    write_bytes(path, _dump(_keep_unknown(value, new, raw)))


def parse_object(data: bytes, name: str) -> dict[str, object]:
    """A JSON object as a dictionary.

    Raises:
        BadInputError: not JSON, or not an object.
    """
    try:
        raw = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadInputError(f"{name} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BadInputError(f"{name} is not a record: it holds a JSON {type(raw).__name__}")
    return raw


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        BadInputError: it is not there, a folder, or not readable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, all of it or nothing.

    Raises:
        EnvironmentFailedError: the disk is full, or the folder cannot be written.
    """
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when the block has ended well.

    Through a link, what it points at is written. A device or a pipe (`/dev/stdout`) is written
    to as it is, for it must never be replaced by a file.

    Raises:
        EnvironmentFailedError: the disk is full, or the folder cannot be written.
    """
    temporary: str | None = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as stream:
                yield stream
            return
        target = path.resolve()
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = file.name
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(permitted(0o666))
        Path(temporary).replace(target)
        temporary = None
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def permitted(mode: int) -> int:
    """The permissions that this process gives a new file or folder.

    Args:
        mode: 0o666 for a file, 0o777 for a folder; the umask is taken from it.
    """
    umask = os.umask(0)  # there is no way to read it but to set it
    os.umask(umask)
    return mode & ~umask


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex, in constant memory.

    Raises:
        BadInputError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def inside(folder: Path, relative: str) -> Path:
    """The file that a record names, if it is inside the record's folder.

    Args:
        folder: of the record.
        relative: a path from an untrusted file.

    Raises:
        BadInputError: the path is absolute, climbs out of the folder, or is a link out of it.
    """
    pure = PurePosixPath(relative)
    whole = folder / pure
    escapes = pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative
    if escapes or not whole.resolve().is_relative_to(folder.resolve()):
        raise BadInputError(f"{relative!r} is outside the folder {folder}: refused")
    return whole


def _fields(value: object, schema: Schema) -> dict[str, object]:
    raw: dict[str, object] = {"schema": schema.name, "version": schema.version}
    raw.update(msgspec.to_builtins(value, enc_hook=str))
    for name in _local_fields(value):
        raw.pop(name, None)
    return raw


def _local_fields(value: object) -> tuple[str, ...]:
    """Fields that say where a thing is on this machine, and so never reach a record."""
    if not is_dataclass(value):
        return ()
    return tuple(f.name for f in fields(value) if f.metadata.get("in_record") is False)


def _dump(raw: object) -> bytes:
    return json.dumps(raw, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _check_schema(raw: dict[str, object], schema: Schema, name: str) -> None:
    if raw.get("schema") != schema.name:
        raise BadInputError(
            f"{name} is not a {schema.name} record: its schema is {raw.get('schema')!r}"
        )
    version = raw.get("version")
    if not isinstance(version, str) or _version(version) == (0, 0):
        raise BadInputError(f"{name} has no version like '1.0': {version!r}")
    if _version(version)[0] != schema.major:
        raise BadInputError(
            f"{name} has version {version} of {schema.name}; this deploykit reads "
            f"{schema.major}.x: take the deploykit that wrote it, or make it again"
        )


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _keep_unknown(value: object, new: object, old: object) -> object:
    if is_dataclass(value) and isinstance(new, dict) and isinstance(old, dict):
        known = {f.name: getattr(value, f.name) for f in fields(value)}
        merged = {
            key: _keep_unknown(known.get(key), item, old.get(key)) for key, item in new.items()
        }
        return merged | {key: item for key, item in old.items() if key not in {*new, *known}}
    if isinstance(value, tuple) and isinstance(new, list | tuple) and isinstance(old, list):
        if len(new) != len(old):
            return new
        return [_keep_unknown(*three) for three in zip(value, new, old, strict=True)]
    return new


def _to_path(kind: type[object], value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)
