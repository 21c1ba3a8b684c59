"""Messages survive the line that they travel on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploykit.bench import protocol
from deploykit.bench.timing import WarmUp, WarmUpRules
from deploykit.core.errors import BadInputError
from deploykit.core.measurement import Target
from deploykit.core.types import Dim, File, OnnxArtifact, TensorSpec
from deploykit.load.sources import Source

SPEC = TensorSpec("x", "float32", (Dim("N", 1, 64), 3))
ARTIFACT = OnnxArtifact((File("m.onnx", "ab", 3, "model"),), (SPEC,), (SPEC,), folder=Path("/a b"))
TARGET = Target(
    "ort-cpu", threads=2, cpus=(0, 1), batch=4, shapes={"x": (4, 3)}, options={"spin": "on"}
)
MESSAGES: tuple[protocol.Message, ...] = (
    protocol.Open(
        "ort-cpu", TARGET, "/tmp/f.npz", artifact=ARTIFACT, warm_up=WarmUpRules(1, 0.5, 2)
    ),
    protocol.Open(
        "torch-eager", TARGET, "f", source=Source("n.py:f", Path("w.pt"), (SPEC,), base=Path("/b"))
    ),
    protocol.Opened(1, 2, WarmUp(3, 4, True, 5), None, {"providers": ("A", "B")}),
    protocol.Take(100, 0),
    protocol.Taken((1, 2, 3), 4),
    protocol.Finish(),
    protocol.Finished(None, None, 5),
    protocol.Describe(Source("timm:resnet18")),
    protocol.Described((SPEC,), (), 7, "ff"),
    protocol.CountMacs("f.npz"),
    protocol.MacsCounted(None),
    protocol.Failed(2, 'wrong: "é"'),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_one_line_and_comes_back(message: protocol.Message) -> None:
    line = protocol.encode(message)

    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert protocol.decode(line) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"message": "Nothing"}\n',
        b'{"message": "Take"}\n',
        b"\xff\n",
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(BadInputError, match="not a message of the bench protocol"):
        protocol.decode(line)


def test_inputs_may_be_called_anything(tmp_path: Path) -> None:
    feeds = {
        name: np.full((2,), n, np.float32) for n, name in enumerate(("file", "a/b:0", "names", "0"))
    }
    protocol.save_feeds(tmp_path / "f.npz", feeds)
    found = protocol.load_feeds(str(tmp_path / "f.npz"))

    assert list(found) == list(feeds)
    for name, array in feeds.items():
        np.testing.assert_array_equal(found[name], array)
