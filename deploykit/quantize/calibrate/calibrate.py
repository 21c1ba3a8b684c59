"""Calibration: the float graph runs over data, and observers see every activation.

Memory does not depend on the number of samples, and is known before the first one runs (`plan.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.core.memory import available, resident_bytes
from deploykit.core.progress import Progress, silent
from deploykit.quantize.calibrate.heap import exact_heap, give_back
from deploykit.quantize.calibrate.plan import COMFORTABLE_BYTES, Plan, Room, plan_for
from deploykit.quantize.calibrate.probe import Shapes
from deploykit.quantize.calibrate.run import Runner
from deploykit.quantize.calibrate.sessions import Sessions
from deploykit.runtimes.ort import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    import onnx

    from deploykit.load.data import Array
    from deploykit.quantize.calibrate.observe import Observer
    from deploykit.quantize.prepare.prepare import Prepared
    from deploykit.quantize.ranges import Range

_MOST_WATCHERS = 8
_OF_WHAT_IS_LEFT = 0.9
"""Other programs live, too, and a prediction may be off."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What calibration may take, and who is told what it will.

    Attributes:
        most_bytes: of the process at its peak; 0 takes what the machine has.
        comfortable_bytes: of activations that are alive at once, where there is more.
        planned: told every plan before it runs.
    """

    most_bytes: int = 0
    comfortable_bytes: int = COMFORTABLE_BYTES
    planned: Callable[[Plan], None] = field(default=lambda _: None)


def calibrate(
    prepared: Prepared,
    wanted: Sequence[str],
    batches: Iterable[Mapping[str, Array]],
    observer: Callable[[], Observer],
    *,
    memory: Memory | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> dict[str, Range]:
    """What every wanted value's range is.

    Args:
        prepared: the float graph.
        wanted: names of inputs and activations.
        batches: the graph's inputs, by name; read once, one batch at a time.
        observer: makes one for each value, in the order of `wanted`. It may read what it is shown
            until it returns; two observers may be shown theirs at the same time.
        memory: what may be taken.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.

    Raises:
        BadInputError: no batch, or a value that is no number: the message names the tensor. Or
            the memory that was allowed is not enough: it says what would be.
        EnvironmentFailedError: the machine's memory is not enough, or its disk.
    """
    observers = {name: observer() for name in wanted}
    seen = 0
    CPU.warm_imports()
    with exact_heap(), Sessions(prepared, threads) as sessions:
        work = _Work(prepared, observers, sessions, memory or Memory(), threads)
        for batch in batches:
            work.show(batch)
            del batch  # before the next is made
            seen += 1
            progress(f"calibrating: batch {seen}", None)
    if not seen:
        raise BadInputError("there is no calibration data: give --calibrate some samples")
    return {name: one.range(name) for name, one in observers.items()}


class _Work:
    """Plans for the shapes that come, and runs."""

    def __init__(
        self,
        prepared: Prepared,
        observers: Mapping[str, Observer],
        sessions: Sessions,
        memory: Memory,
        threads: int,
    ) -> None:
        self._prepared, self._sessions, self._memory = prepared, sessions, memory
        self._observers = observers
        self._see = {name: partial(_see, name, one) for name, one in observers.items()}
        self._watchers = min(threads or len(_cpus()), _MOST_WATCHERS)
        self._threads = threads or len(_cpus())
        self._runner: Runner | None = None
        self._shapes = Shapes(prepared, sessions, tuple(observers))

    def show(self, batch: Mapping[str, Array]) -> None:
        """Run a batch, in parts where it does not fit whole."""
        if self._runner is None:
            self._runner = self._planned(batch)
        rows = self._runner.plan.rows
        for part in _parts(batch, rows):
            values = self._shapes.at(part)
            if not self._runner.fits(values):
                self._runner = None  # its memory is free before the next is planned
                self._runner = self._planned(part)
            self._runner.run(part, values, self._see)

    def _planned(self, batch: Mapping[str, Array]) -> Runner:
        plan = plan_for(
            self._prepared.model.graph,
            tuple(self._observers),
            self._shapes.row_counts(batch),
            lambda rows: self._shapes.at(next(_parts(batch, rows))),
            room=self._room(),
            most_bytes=self._memory.comfortable_bytes,
        )
        self._memory.planned(plan)
        runner = Runner(plan, self._sessions, self._watchers)
        if plan.together and plan.rows > 1:
            # Weights are in memory after it, so that the first batch takes what all others take.
            sample = next(_parts(batch, 1))
            runner.run(sample, self._shapes.at(sample), {})
        return runner

    def _room(self) -> Room:
        give_back()
        before = resident_bytes()
        left = available()
        most: int | None = self._memory.most_bytes
        asked, who = bool(most), "--memory allows"
        if not most:
            who = left.who
            most = None
            if left.size_bytes is not None:
                most = before + int(_OF_WHAT_IS_LEFT * left.size_bytes)
        kept = sum(getattr(one, "kept_bytes", 0) for one in self._observers.values())
        return Room(before, most, who, asked, kept, self._threads + self._watchers)


def _see(name: str, observer: Observer, values: Array) -> None:
    observer.add(values)
    if observer.non_finite:
        observer.range(name)  # says so


def _parts(batch: Mapping[str, Array], rows: int) -> Iterator[Mapping[str, Array]]:
    """A batch in parts of at most so many samples; as it is where that is 0."""
    total = len(next(iter(batch.values()))) if rows else 0
    if total <= rows:
        yield batch
        return
    for start in range(0, total, rows):
        yield {name: array[start : start + rows] for name, array in batch.items()}


def _cpus() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def wanted_of(graph: onnx.GraphProto, values: Collection[str]) -> tuple[str, ...]:
    """Some values of a graph in its order: inputs first."""
    made = [value.name for value in graph.input] + [n for node in graph.node for n in node.output]
    return tuple(name for name in made if name in values)
