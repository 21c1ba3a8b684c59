"""What a pruning may be asked for, and the words for what it may not."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from deploykit.core.errors import BadInputError
from deploykit.flow.prune.loop import LatencyAim, PruneLoop
from deploykit.flow.prune.request import PruneRequest
from deploykit.load.sources import Source


def request(**asked: Any) -> PruneRequest:
    return PruneRequest(Source("net.py:build"), Path("out"), **asked)


@pytest.mark.parametrize(
    ("text", "share", "latency_ns"),
    [
        ("0.6x", 0.6, None),
        (" .5 x ", 0.5, None),
        ("4ms", None, 4e6),
        ("4. ms", None, 4e6),
        ("250us", None, 250e3),
        ("250µs", None, 250e3),
        ("0.1s", None, 1e8),
        ("900ns", None, 900.0),
    ],
)
def test_a_latency_is_a_share_or_a_time(
    text: str, share: float | None, latency_ns: float | None
) -> None:
    aim = LatencyAim.parse(text)

    assert aim == LatencyAim(text, share, latency_ns)
    assert aim.share_of(2e6) == (share or (latency_ns or 0) / 2e6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fast", "is neither a share of the original's nor a time; write it like 0.6x or 4ms"),
        ("4", "is neither a share of the original's nor a time; write it like 0.6x or 4ms"),
        ("-4ms", "is neither a share of the original's nor a time; write it like 0.6x or 4ms"),
        ("1e3ms", "is neither a share of the original's nor a time; write it like 0.6x or 4ms"),
        ("60%", "is neither a share of the original's nor a time; write it like 0.6x or 4ms"),
        ("nanx", "is neither a share of the original's nor a time; write it like 0.6x or 4ms"),
        ("1x", "must be above 0x and below 1x, such as 0.6x"),
        ("0x", "must be above 0x and below 1x, such as 0.6x"),
        ("0ms", "must be above 0"),
    ],
)
def test_another_latency_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        request(latency=text)
    assert str(caught.value) == f"latency {text!r} {words}"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"rounds": 0}, "rounds must be 1 or more, not 0"),
        ({"batch": 0}, "batch must be 1 or more, not 0"),
        ({"threads": -2}, "threads must be 1 or more, not -2"),
        ({"max_drop": -0.5}, "max_drop must be 0 points or more, not -0.5"),
        ({"max_drop": float("nan")}, "max_drop must be 0 points or more, not nan"),
        ({"latency": "4ms", "measure": False}, "a latency of 4ms has to be measured"),
        (
            {"latency": "4ms", "changes": {"ratio": 0.5}},
            "give a ratio or a latency, not both",
        ),
        (
            {"latency": "4ms", "changes": {"of": "macs"}},
            "leave out of: a latency of 4ms is of no count",
        ),
        (
            {"measure": False, "threads": 1, "batch": 2},
            "leave out batch and threads: nothing is measured",
        ),
        (
            {"measure": False, "changes": {"align": "auto"}},
            "align auto has to be measured: give a number, such as 8",
        ),
        (
            {"changes": {"depth_by": "loss"}},
            "leave out depth_by: no blocks go, for that say depth",
        ),
        ({"changes": {"samples": 9}}, "leave out samples: no criterion looks at data"),
        (
            {"finetune": False, "tuning": {"patience": 2, "epochs": 1, "seed": 0}},
            "leave out epochs, patience: nothing is trained",
        ),
        ({"distill": 2.0}, "the teacher's weight must be from 0 to 1, not 2"),
        ({"distill": 0.5, "temperature": -1.0}, "temperature must be above 0, not -1"),
        ({"distill": 0.5, "finetune": False}, "leave out distill: nothing is trained"),
        ({"temperature": 2.0}, "leave out temperature: there is no teacher, for that say distill"),
    ],
)
def test_what_cannot_be_or_would_do_nothing_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        request(**asked)
    assert str(caught.value) == words


def test_what_a_stage_may_say_is_a_part_of_the_request() -> None:
    assert {field.name for field in fields(PruneLoop)} < {field.name for field in fields(request())}
    assert not {field.name for field in fields(PruneLoop)} & {"source", "out", "overwrite"}


def test_a_precision_is_known_and_can_be_measured() -> None:
    with pytest.raises(
        BadInputError, match=r"^precision 'int4' is unknown; did you mean 'int8'\?$"
    ):
        PruneLoop(precision="int4")
    with pytest.raises(
        BadInputError, match=r"a latency of 0.5x is measured in float32 or int8: for float16 aim"
    ):
        PruneLoop(latency="0.5x", precision="float16")
    assert PruneLoop(latency="0.5x", precision="int8").precision == "int8"
    with pytest.raises(BadInputError, match="leave out precision: nothing is measured"):
        PruneLoop(measure=False, precision="int8")
