"""Scalars in TensorBoard's file format, which is small enough to need no package for writing it.

A file is a row of records (TFRecord: the length, its checksum, the data, its checksum), and each
record is one protocol buffer of type `Event` (event.proto and summary.proto of TensorBoard):

    Event    wall_time = 1 (double), step = 2 (int64), file_version = 3 (string), summary = 5
    Summary  value = 1, repeated
    Value    tag = 1 (string), simple_value = 2 (float)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from deploykit.core import records
from deploykit.core.errors import EnvironmentFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# A file is taken for TensorBoard's by this part of its name.
FILE_NAME = "events.out.tfevents.train"


@dataclass(frozen=True, slots=True)
class Event:
    """What is shown at one place of the horizontal axis.

    Attributes:
        step: the place.
        wall_s: when that was, in seconds since 1970.
        scalars: values by tag; the part of a tag before "/" names the panel.
    """

    step: int
    wall_s: float
    scalars: Mapping[str, float]


def write(path: Path, events: Iterable[Event]) -> None:
    """Write a whole file, in place of one that is there.

    Raises:
        EnvironmentFailedError: the disk is full, or the folder cannot be written.
    """
    with records.writing(path) as file:
        file.write(_record(_field(3, b"brain.Event:2")))  # the format's version, always first
        file.writelines(_record(_encoded(event)) for event in events)


def append(path: Path, event: Event) -> None:
    """Add to the end of a file, where a TensorBoard that is watching sees it.

    Raises:
        EnvironmentFailedError: the disk is full, or the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(_record(_encoded(event)))
    except OSError as error:
        raise EnvironmentFailedError(f"cannot write {path}: {error.strerror}") from error


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli's polynomial (RFC 3720, appendix B.4), reflected."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = _remainders()[(remainder ^ byte) & 0xFF] ^ (remainder >> 8)
    return remainder ^ 0xFFFFFFFF


@cache
def _remainders() -> tuple[int, ...]:
    found = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 if remainder & 1 else 0)
        found.append(remainder)
    return tuple(found)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    """TFRecord's form of a checksum: rotated, and a constant added."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _encoded(event: Event) -> bytes:
    values = b"".join(
        _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in event.scalars.items()
    )
    time = b"\x09" + struct.pack("<d", event.wall_s)
    return time + b"\x10" + _varint(event.step) + _field(5, values)


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer with its length: a string, or a message inside."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
