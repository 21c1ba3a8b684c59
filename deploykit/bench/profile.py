"""Where the time of an ONNX artifact goes, by node and by operator.

ONNX Runtime's own profiler takes the times: of kernels only, without what the runtime does between
them, in whole microseconds a call. Names and operators are those that really run, after the
runtime has fused and rewritten the graph. The profiler costs time itself, so these figures say
where time goes, not how long a call takes: that is what `deploykit bench` is for.

Source: ONNX Runtime, "Profiling Tools" (onnxruntime.ai/docs/performance/tune-performance).
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, TypedDict

from deploykit.core.measurement import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from deploykit.core.types import OnnxArtifact
    from deploykit.load.data import Array
    from deploykit.runtimes.ort import OnnxRuntime

_WARMUP_RUNS = 3
_FEWEST_RUNS, _MOST_RUNS = 5, 200
_BUDGET_NS = 1_000_000_000
_KERNEL = "_kernel_time"
# The time of their bodies' nodes is reported by itself: theirs would count it twice.
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node that ran.

    Attributes:
        name: as the runtime calls it after its optimizations.
        op: its operator.
        provider: what ran it ("CPUExecutionProvider").
        calls: how often one inference calls it, on average.
        time_ns: all its calls in one inference together, on average.
    """

    name: str
    op: str
    provider: str
    calls: float
    time_ns: float


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """All nodes of one operator.

    Attributes:
        op: the operator.
        nodes: how many of them ran.
        time_ns: of one inference, on average.
        share: of the time of all kernels, 0 to 1.
    """

    op: str
    nodes: int
    time_ns: float
    share: float


class Event(TypedDict, total=False):
    """What is read of one entry of the profile; times in microseconds."""

    cat: str
    name: str
    ts: int
    dur: int
    args: dict[str, object]


def profile_nodes(
    artifact: OnnxArtifact,
    feeds: Mapping[str, Array],
    runtime: OnnxRuntime,
    threads: int | None = None,
) -> tuple[NodeTime, ...]:
    """Run an artifact under the profiler for about a second, slowest node first.

    Args:
        artifact: ours or a foreign one.
        feeds: one set of inputs, by name.
        runtime: an entry of `deploykit.runtimes.ort.PROVIDERS`.
        threads: of one operator; `None` leaves it to the runtime.

    Raises:
        BadInputError: the runtime refuses the model, or the inputs do not fit.
        MissingExtraError: the runtime is not there.
        EnvironmentFailedError: its provider did not come up.
    """
    target = Target(runtime.name, runtime.device, threads)
    with tempfile.TemporaryDirectory(prefix="deploykit-profile-") as folder:
        session = runtime.open(artifact, target, profile_to=Path(folder) / "profile")
        try:
            _run(session.bind(feeds))
            events: list[Event] = json.loads(session.end_profile().read_bytes())
        finally:
            session.close()
    return node_times(events)


def _run(call: Callable[[], object]) -> None:
    for _ in range(_WARMUP_RUNS):
        began = perf_counter_ns()
        call()
        last_ns = max(perf_counter_ns() - began, 1)
    for _ in range(min(max(_BUDGET_NS // last_ns, _FEWEST_RUNS), _MOST_RUNS)):
        call()


def node_times(events: Sequence[Event], warmup_runs: int = _WARMUP_RUNS) -> tuple[NodeTime, ...]:
    """Read a profile: means over the runs after the warm-up, slowest node first.

    Args:
        events: entries of ONNX Runtime's profile, in any order.
        warmup_runs: how many runs at the start are left out.
    """
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")[warmup_runs:]
    if not starts:
        return ()
    # Fusion makes nodes of the same name; their numbers tell them apart.
    spent: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for event in _kernels(events):
        if event["ts"] >= starts[0]:
            name = event["name"].removesuffix(_KERNEL)
            op, provider, number = (
                str(event["args"].get(key, "")) for key in ("op_name", "provider", "node_index")
            )
            spent[name, op, provider, number].append(event["dur"])
    runs = len(starts)
    nodes = (
        NodeTime(name, op, provider, len(times) / runs, 1000 * sum(times) / runs)
        for (name, op, provider, _), times in spent.items()
    )
    return tuple(sorted(nodes, key=lambda node: (-node.time_ns, node.name)))


def operator_times(nodes: Iterable[NodeTime]) -> tuple[OperatorTime, ...]:
    """Add nodes up by operator, slowest first."""
    by_op: dict[str, list[NodeTime]] = defaultdict(list)
    for node in nodes:
        by_op[node.op].append(node)
    times = {op: sum(node.time_ns for node in group) for op, group in by_op.items()}
    whole = sum(times.values())
    return tuple(
        OperatorTime(op, len(by_op[op]), time_ns, time_ns / whole if whole else 0.0)
        for op, time_ns in sorted(times.items(), key=lambda item: (-item[1], item[0]))
    )


def _kernels(events: Iterable[Event]) -> Iterator[Event]:
    for event in events:
        is_kernel = event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
        if is_kernel and event["args"].get("op_name") not in _CONTROL_FLOW:
            yield event
