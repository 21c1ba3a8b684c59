"""From a profile to the latency of each probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploykit.bench.layer_survey import faster_half
from deploykit.bench.layer_timing import (
    FEWEST_CALLS,
    MOST_CALLS,
    WARM_UP_CALLS,
    block_of,
    call_for,
    check_target,
)
from deploykit.core.errors import BadInputError
from deploykit.core.measurement import Target

if TYPE_CHECKING:
    from deploykit.bench.profile import Event


def _call(start: int, *kernels: tuple[str, str, int]) -> list[Event]:
    """One call of the model from `start` on, its kernels one after another."""
    events: list[Event] = [{"cat": "Session", "name": "model_run", "ts": start, "dur": 90}]
    for name, op, dur in kernels:
        start += 1
        event: Event = {
            "cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": dur,
            "args": {"op_name": op},
        }  # fmt: skip
        events.append(event)
    return events


def test_only_the_layer_counts_and_not_what_surrounds_it() -> None:
    call = _call(
        100,
        ("ReorderInput", "ReorderInput", 40),
        ("0/0/r_nchwc", "Conv", 7),
        ("ReorderOutput", "ReorderOutput", 50),
        ("0/end", "Slice", 3),
        ("InsertedPrecisionFreeCast_1/x", "Cast", 9),
        ("InsertedPrecisionFreeCast_1/0/o", "MatMul", 5),
        ("1/0/relu", "Relu", 2),
        ("1/end", "Slice", 3),
    )

    assert block_of(call, 2, offset_ns=0, warm_up_calls=0) == (7_000, 7_000)


def test_a_change_of_layout_between_the_layers_of_a_pair_counts() -> None:
    call = _call(
        100,
        ("ReorderInput", "ReorderInput", 40),
        ("0/0/r_nchwc", "Conv", 7),
        ("ReorderOutput", "ReorderOutput", 50),
        ("0/1/relu", "FusedConv", 30),
        ("Transpose", "Transpose", 60),
        ("0/end", "Slice", 3),
    )

    assert block_of(call, 1, offset_ns=0, warm_up_calls=0) == (87_000,)


def test_warm_up_is_left_out_and_the_faster_half_is_averaged() -> None:
    durations = (900, 10, 12, 50, 40)
    calls = [_call(1000 * n, ("0/0/o", "Gemm", dur)) for n, dur in enumerate(durations)]
    events = [event for call in calls for event in call]

    assert block_of(events, 1, offset_ns=500, warm_up_calls=1) == (11_500,)
    assert block_of(events, 1, offset_ns=-20_000, warm_up_calls=1) == (100,), "never nothing"


def test_a_probe_without_kernels_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"^ONNX Runtime shows no kernel of probe 1 "):
        block_of(_call(1, ("0/0/o", "Gemm", 5)), 2, warm_up_calls=0)


@pytest.mark.parametrize(
    ("values", "mean"), [([3], 3), ([9, 1], 1), ([3, 9, 1], 2), ([100, 2, 4, 90], 3)]
)
def test_the_faster_half(values: list[float], mean: float) -> None:
    assert faster_half(values) == mean


@pytest.mark.parametrize(("duration_ns", "calls"), [(0, FEWEST_CALLS), (10**15, MOST_CALLS)])
def test_neither_too_few_calls_nor_too_many(duration_ns: int, calls: int) -> None:
    made: list[int] = []

    call_for(lambda: made.append(1), duration_ns)

    assert len(made) == WARM_UP_CALLS + calls


def test_a_runtime_whose_kernels_cannot_be_timed_is_refused() -> None:
    check_target(Target("ort-cpu"))
    with pytest.raises(BadInputError, match=r"one by one on ort-cpu only, not on ort-cuda$"):
        check_target(Target("ort-cuda"))
