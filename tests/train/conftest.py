"""One thread for small networks; reading back the curves that training draws."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from deploykit.train.curves import Point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _read_points(path: Path) -> list[Point]:
    """The scalars of a file of TFRecords (length, checksum, data, checksum), by step."""
    content = path.read_bytes()
    found: dict[int, Point] = {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            point = found.setdefault(event.step, Point(event.step, event.wall_time, {}))
            point.scalars[value.tag] = value.simple_value
    return list(found.values())


@pytest.fixture(scope="session")
def read_points() -> Callable[[Path], list[Point]]:
    return _read_points


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small are fastest on one, and do not wait for busy neighbours."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
