"""How long the probes of a model take: kernel times from ONNX Runtime's own profiler.

The clock is around each kernel, inside the runtime, with as many threads as the target says. So
neither the call from Python counts nor what only a model of single layers needs: the change of
layout of its inputs and outputs. What the runtime does between two layers of a probe does count.

The profiler cuts times to whole microseconds, half of one too short on average, which is put back.
It also takes time itself within what it measures, about 2 us a kernel: as much as kernels that do
nothing seem to take in a profile beyond what they add to a call without one, and that is taken off.
One block is one session; the faster half of its times is averaged. Whatever else runs on the
machine only ever adds time, so that fast calls say more about the layer than slow ones (Chen &
Revels, "Robust benchmarking in noisy environments", 2016, section III), and their mean is finer
than the microseconds that it is made of.

Source of the clock: ONNX Runtime, core/common/profiler.cc (`TimeDiffMicroSeconds`).
"""

from __future__ import annotations

import json
import re
import time
from array import array
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from deploykit.bench import timing
from deploykit.bench.layer_models import write_idle_chain
from deploykit.bench.layer_survey import faster_half
from deploykit.core.errors import BadInputError
from deploykit.load.artifacts import load_artifact
from deploykit.runtimes import ort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from deploykit.bench.profile import Event
    from deploykit.core.measurement import Target
    from deploykit.core.types import TensorSpec
    from deploykit.load.data import Array

WARM_UP_CALLS = 2
FEWEST_CALLS, MOST_CALLS = 5, 60
_KERNEL = "_kernel_time"
_IDLE_KERNELS, _IDLE_CALLS, _IDLE_NS = 100, 2000, 50_000_000
_LEAST_NS = 100.0  # of a kernel: none takes no time
_CUT_NS = 500  # what a time in whole microseconds lacks on average
_PLACE = re.compile(r"(?:^|_)(\d+)/(\d+)/")
_END = "Slice"  # ours, at the end of each probe
# Changes of layout and type: they count between two layers only, whatever they are called.
_CHANGES = frozenset({"Cast", "ReorderInput", "ReorderOutput", "Transpose"})


def check_target(target: Target) -> None:
    """Refuse what kernel times cannot be had of.

    Raises:
        BadInputError: another runtime than ONNX Runtime's own CPU kernels.
    """
    if target.runtime != ort.CPU.name:
        raise BadInputError(
            f"layers can be timed one by one on {ort.CPU.name} only, not on {target.runtime}"
        )


class LayerClock:
    """Times models of probes on one target; see the module.

    Args:
        target: CPUs are pinned by the caller.
        folder: may be written to.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self._target = target
        self._profiler_ns = _profiler_ns(target, folder)

    def time(self, model: Path, probes: int, duration_ns: int) -> tuple[float, ...]:
        """Open a model and time its probes.

        Args:
            model: written by `deploykit.bench.layer_models`, in a folder that may be written to.
            probes: how many there are in it.
            duration_ns: how long to call it, within limits.

        Returns:
            Nanoseconds of each probe, in order.

        Raises:
            BadInputError: the runtime refuses the model.
        """
        events = _profile(model, self._target, duration_ns)
        return block_of(events, probes, _CUT_NS - self._profiler_ns)


def _profile(model: Path, target: Target, duration_ns: int) -> list[Event]:
    session = ort.CPU.open(load_artifact(model), target, profile_to=model.with_suffix(""))
    try:
        call_for(session.bind(_feeds(session.inputs)), duration_ns)
        profile = session.end_profile()
    finally:
        session.close()
    events: list[Event] = json.loads(profile.read_bytes())
    profile.unlink()
    return events


def _profiler_ns(target: Target, folder: Path) -> float:
    """What the profiler adds to a kernel: its time in a profile less its time in a call."""
    path = folder / "idle.onnx"
    calls: dict[int, float] = {}
    for length in (1, 1 + _IDLE_KERNELS):
        write_idle_chain(length, path)
        session = ort.CPU.open(load_artifact(path), target)
        calls[length] = _call_ns(session.bind(_feeds(session.inputs)))
        session.close()
    in_calls = (calls[1 + _IDLE_KERNELS] - calls[1]) / _IDLE_KERNELS
    events = _profile(path, target, _IDLE_NS)
    kernels = [float(event["dur"]) for event in events if event["name"].endswith(_KERNEL)]
    return max(faster_half(kernels) * 1000 + _CUT_NS - in_calls, 0.0)


def _call_ns(call: Callable[[], object]) -> float:
    room = array("q", [0]) * _IDLE_CALLS
    taken = timing.take(call, time.perf_counter_ns, room, _IDLE_NS)
    return faster_half(room[:taken])


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
    events: Sequence[Event],
    probes: int,
    offset_ns: float = _CUT_NS,
    warm_up_calls: int = WARM_UP_CALLS,
) -> tuple[float, ...]:
    """The nanoseconds of each probe from a profile: the mean of its faster calls.

    Args:
        events: entries of ONNX Runtime's profile, in any order.
        probes: how many there are.
        offset_ns: is added to the time of each kernel, which stays above 0.
        warm_up_calls: how many calls at the start are left out.

    Raises:
        BadInputError: a probe has no kernel of its own name, so that it cannot be told apart.
    """
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    bounds = np.array(starts[warm_up_calls:])
    spent: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for probe, start, ns in _kernels(events, offset_ns):
        call = int(np.searchsorted(bounds, start, side="right")) - 1
        if call >= 0:
            spent[probe][call] += ns
    for probe in range(probes):
        if probe not in spent:
            raise BadInputError(f"ONNX Runtime shows no kernel of probe {probe} in its profile")
    return tuple(faster_half(list(spent[probe].values())) for probe in range(probes))


def _kernels(events: Iterable[Event], offset_ns: float) -> list[tuple[int, int, float]]:
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
        ns = max(event["dur"] * 1000.0 + offset_ns, _LEAST_NS)
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
