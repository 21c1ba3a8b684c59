"""One thread for small networks; reading back the curves that training draws."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from deploykit.train.events import Event, crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# (message, field, number, type, type name), as in event.proto and summary.proto.
_Field = descriptor_pb2.FieldDescriptorProto
FIELDS = [
    ("Event", "wall_time", 1, _Field.TYPE_DOUBLE, ""),
    ("Event", "step", 2, _Field.TYPE_INT64, ""),
    ("Event", "file_version", 3, _Field.TYPE_STRING, ""),
    ("Event", "summary", 5, _Field.TYPE_MESSAGE, ".tb.Summary"),
    ("Summary", "value", 1, _Field.TYPE_MESSAGE, ".tb.Value"),
    ("Value", "tag", 1, _Field.TYPE_STRING, ""),
    ("Value", "simple_value", 2, _Field.TYPE_FLOAT, ""),
]


def _event_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="tb.proto", package="tb", syntax="proto3")
    messages: dict[str, Any] = {}
    for message, name, number, kind, type_name in FIELDS:
        if message not in messages:
            messages[message] = file.message_type.add(name=message)
        label = _Field.LABEL_REPEATED if message == "Summary" else _Field.LABEL_OPTIONAL
        messages[message].field.add(
            name=name, number=number, type=kind, type_name=type_name or None, label=label
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tb.Event"))


def _read_events(path: Path) -> list[Event]:
    """All events after the first, which must be the format's version; every checksum is checked."""
    content, found, event_class = path.read_bytes(), [], _event_class()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + length]
        for start, part in ((8, content[:8]), (12 + length, data)):
            (masked,) = struct.unpack("<I", content[start : start + 4])
            crc = crc32c(part)
            assert masked == ((crc >> 15) + (crc << 17) % 2**32 + 0xA282EAD8) % 2**32
        found.append(event_class.FromString(data))
        content = content[16 + length :]
    assert found[0].file_version == "brain.Event:2"
    return [
        Event(e.step, e.wall_time, {v.tag: v.simple_value for v in e.summary.value})
        for e in found[1:]
    ]


@pytest.fixture(scope="session")
def read_events() -> Callable[[Path], list[Event]]:
    return _read_events


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small are fastest on one, and do not wait for busy neighbours."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
