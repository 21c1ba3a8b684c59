"""How long the probes of a model take: kernel times from ONNX Runtime's own profiler.

The clock is around each kernel, inside the runtime, with as many threads as the target says. So
neither the call from Python counts nor what only a model of single layers needs: the change of
layout of its inputs and outputs. What the runtime does between two layers of a probe does count.

The profiler cuts times to whole microseconds, half of one too short on average, which is put back.
One block is one session; the middle half of its times is averaged (the interquartile mean), which
outliers do not move and which is finer than the microseconds that it is made of.

Source: ONNX Runtime, core/common/profiler.cc (`TimeDiffMicroSeconds`); the interquartile mean is
the 25 % trimmed mean of Huber & Ronchetti, "Robust Statistics", 2009, section 3.3.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from deploykit.core.errors import BadInputError
from deploykit.load.artifacts import load_artifact
from deploykit.runtimes import ort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from deploykit.bench.protocol import TimeProbes
    from deploykit.core.measurement import Target
    from deploykit.core.types import TensorSpec
    from deploykit.load.data import Array

WARM_UP_CALLS = 3
FEWEST_CALLS, MOST_CALLS = 8, 60
_KERNEL = "_kernel_time"
_CUT_NS = 500  # what a time in whole microseconds lacks on average
_PLACE = re.compile(r"(?:^|_)(\d+)/(\d+)/")
_END = "Slice"  # ours, at the end of each probe
# Changes of layout and type: they count between two layers only, whatever they are called.
_CHANGES = frozenset({"Cast", "ReorderInput", "ReorderOutput", "Transpose"})


class Event(TypedDict, total=False):
    """What is read of one entry of a profile; times in microseconds."""

    cat: str
    name: str
    ts: int
    dur: int
    args: dict[str, object]


def check_target(target: Target) -> None:
    """Refuse what kernel times cannot be had of.

    Raises:
        BadInputError: another runtime than ONNX Runtime's own CPU kernels.
    """
    if target.runtime != ort.CPU.name:
        raise BadInputError(
            f"layers can be timed one by one on {ort.CPU.name} only, not on {target.runtime}"
        )


def time_probes(request: TimeProbes) -> tuple[float, ...]:
    """Open a model of probes and time them; see the module.

    Args:
        request: the model, the target and how long to go on. CPUs are pinned by the caller.

    Returns:
        Nanoseconds of each probe, in order.

    Raises:
        BadInputError: the runtime refuses the model.
    """
    path = Path(request.model)
    session = ort.CPU.open(load_artifact(path), request.target, profile_to=path.with_suffix(""))
    try:
        call_for(session.bind(_feeds(session.inputs)), request.duration_ns)
        profile = session.end_profile()
    finally:
        session.close()
    events: list[Event] = json.loads(profile.read_bytes())
    profile.unlink()
    return block_of(events, request.probes)


def call_for(call: Callable[[], object], duration_ns: int) -> None:
    """Warm up, then call for a while: few calls of a slow model, not too many of a fast one."""
    for _ in range(WARM_UP_CALLS):
        call()
    end = time.perf_counter_ns() + duration_ns
    for number in range(MOST_CALLS):
        if number >= FEWEST_CALLS and time.perf_counter_ns() >= end:
            break
        call()


def block_of(
    events: Sequence[Event], probes: int, warm_up_calls: int = WARM_UP_CALLS
) -> tuple[float, ...]:
    """The nanoseconds of each probe from a profile: the interquartile mean over its calls.

    Args:
        events: entries of ONNX Runtime's profile, in any order.
        probes: how many there are.
        warm_up_calls: how many calls at the start are left out.

    Raises:
        BadInputError: a probe has no kernel of its own name, so that it cannot be told apart.
    """
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    bounds = np.array(starts[warm_up_calls:])
    spent: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for probe, start, ns in _kernels(events):
        call = int(np.searchsorted(bounds, start, side="right")) - 1
        if call >= 0:
            spent[probe][call] += ns
    for probe in range(probes):
        if probe not in spent:
            raise BadInputError(f"ONNX Runtime shows no kernel of probe {probe} in its profile")
    return tuple(midmean(list(spent[probe].values())) for probe in range(probes))


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half; of fewer than four values, of them all."""
    ordered = np.sort(np.asarray(values, np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def _kernels(events: Iterable[Event]) -> list[tuple[int, int, float]]:
    """Probe, start in microseconds and nanoseconds of every kernel that counts.

    A kernel of a layer has the layer's name. A change of layout or type counts if it runs between
    two kernels of the same probe.
    """
    kernels = sorted(
        (e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL)),
        key=lambda event: event["ts"],
    )
    found: list[tuple[int, int, float]] = []
    between: list[tuple[int, float]] = []
    last = -1
    for event in kernels:
        ns = event["dur"] * 1000.0 + _CUT_NS
        place = _PLACE.search(event["name"])
        operator = event["args"].get("op_name")
        if operator == _END:
            last, between = -1, []
        elif place is None or operator in _CHANGES:
            between.append((event["ts"], ns))
        else:
            probe = int(place[1])
            if probe == last:
                found.extend((probe, start, extra) for start, extra in between)
            found.append((probe, event["ts"], ns))
            last, between = probe, []
    return found


def _feeds(inputs: Iterable[TensorSpec]) -> dict[str, Array]:
    """Seeded inputs; probes whose inputs are of equal shape read the same array."""
    generator = np.random.default_rng(0)
    made: dict[tuple[str, tuple[object, ...]], Array] = {}
    feeds: dict[str, Array] = {}
    for spec in inputs:
        key = spec.dtype, spec.shape
        if key not in made:
            sizes = tuple(size for size in spec.shape if isinstance(size, int))
            dtype = np.dtype(spec.dtype)
            if dtype.kind == "f":
                made[key] = generator.standard_normal(sizes, np.float32).astype(dtype)
            else:
                made[key] = generator.integers(0, 100, sizes).astype(dtype)
        feeds[spec.name] = made[key]
    return feeds
