"""TensorBoard's file format, read back by protobuf itself from TensorBoard's published fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploykit.core.errors import EnvironmentFailedError
from deploykit.train.events import Event, append, crc32c, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVENTS = [
    Event(0, 1.7e9, {"accuracy/val": 0.5}),
    Event(300, 1.7e9 + 0.25, {"loss/train": 1.25, "learning_rate": 0.125, "é" * 100: -2.0}),
]


def test_the_checksum_is_that_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_what_is_written_is_read_back_by_protobuf(
    tmp_path: Path, read_events: Callable[[Path], list[Event]]
) -> None:
    path = tmp_path / "events"
    write(path, EVENTS)

    assert read_events(path) == EVENTS


def test_appending_gives_the_file_that_writing_gives(tmp_path: Path) -> None:
    write(tmp_path / "whole", EVENTS)
    write(tmp_path / "grown", EVENTS[:1])
    append(tmp_path / "grown", EVENTS[1])

    assert (tmp_path / "grown").read_bytes() == (tmp_path / "whole").read_bytes()
    with pytest.raises(EnvironmentFailedError, match=r"cannot write .*gone.*: No such file"):
        append(tmp_path / "gone" / "events", EVENTS[0])
