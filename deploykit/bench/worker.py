"""The measuring process: `python -m deploykit.bench.worker`; see `deploykit.bench.protocol`.

One process a model, so that memory is the model's own, and so that a crash takes only itself.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from deploykit.bench import memory, protocol, timing
from deploykit.core.errors import BadInputError, DeploykitError, EnvironmentFailedError, ExitStatus
from deploykit.runtimes import runtime_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deploykit.bench.layer_timing import LayerClock
    from deploykit.load.data import Array
    from deploykit.runtimes.base import Session

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Bench:
    """A session under measurement."""

    def __init__(self, request: protocol.Open) -> None:
        self._room = array("q", [0]) * timing.LARGEST_SLICE
        target = request.target
        if target.cpus:
            pin(target.cpus)
        runtime = runtime_named(request.runtime)
        runtime.warm_imports()
        feeds = protocol.load_feeds(request.feeds)
        model = request.artifact or request.source
        if model is None:
            raise BadInputError("Open names neither an artifact nor a source")
        self._baseline = memory.start()
        with timing.no_garbage_collection():
            start = time.perf_counter_ns()
            self._session: Session = runtime.open(model, target)
            loaded = time.perf_counter_ns()
            self._call: Callable[[], Sequence[Array]] = self._session.bind(feeds)
            before = time.perf_counter_ns()
            outputs = list(self._call())
            after = time.perf_counter_ns()
        check_finite(outputs, [spec.name for spec in self._session.outputs])
        del outputs
        self._load_ns, self._first_ns = loaded - start, after - before
        self._warm_up_rules = request.warm_up

    def warm_up(self) -> protocol.Opened:
        """Warm up and say how everything went so far."""
        with timing.no_garbage_collection():
            warm_up = timing.warm_up(
                self._call, time.perf_counter_ns, self._room, self._warm_up_rules
            )
        timing.rest(time.process_time_ns, time.sleep)
        return protocol.Opened(
            load_ns=self._load_ns,
            first_ns=self._first_ns,
            warm_up=warm_up,
            baseline_rss_bytes=self._baseline.rss_bytes,
            facts=self._session.facts(),
        )

    def take(self, request: protocol.Take) -> protocol.Taken:
        """Measure one slice."""
        with timing.no_garbage_collection():
            timing.lead_in(self._call, time.perf_counter_ns, request.lead_in_ns)
            taken = timing.take(self._call, time.perf_counter_ns, self._room, request.duration_ns)
        rested = timing.rest(time.process_time_ns, time.sleep)
        return protocol.Taken(tuple(self._room[:taken]), rested)

    def finish(self) -> protocol.Finished:
        """Read the counters, before anything is given back."""
        peak = memory.peak_bytes()
        share = memory.share_bytes(self._baseline, peak)
        return protocol.Finished(peak, share, time.process_time_ns())


def pin(cpus: tuple[int, ...]) -> None:
    """Run on these CPUs only, this process and every thread that it will start.

    Raises:
        EnvironmentFailedError: the system cannot pin.
        BadInputError: a CPU is not there or not allowed.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise EnvironmentFailedError("this system cannot pin processes to CPUs: leave out --cpus")
    allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    # Linux takes those of the CPUs that exist and says nothing of the others.
    with suppress(OSError, ValueError, OverflowError):
        os.sched_setaffinity(0, cpus)
    found = os.sched_getaffinity(0)
    if found != set(cpus):
        strange = sorted(set(cpus) - found) or cpus
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise BadInputError(f"cannot pin to CPU {strange[0]}{more}; allowed: --cpus {allowed}")


def check_finite(outputs: list[Array], names: list[str]) -> None:
    """Refuse to time a network that computes nonsense.

    Raises:
        BadInputError: a float output has NaN.
    """
    for index, output in enumerate(outputs):
        array = np.asarray(output)
        # The least of NaN and anything is NaN; a mask of it would count as the model's memory.
        if array.dtype.kind == "f" and array.size and np.isnan(array.min()):
            name = names[index] if index < len(names) else str(index)
            raise BadInputError(
                f"output {name!r} has NaN: its inputs or weights are broken (real inputs: --data)"
            )


def answers(requests: Iterator[protocol.Message]) -> Iterator[protocol.Message]:
    """One answer a request, until `Finish`.

    Raises:
        DeploykitError: a request cannot be met.
    """
    bench: Bench | None = None
    describe: Callable[[str], int | None] | None = None
    clock: LayerClock | None = None
    for request in requests:
        match request:
            case protocol.Open():
                bench = Bench(request)
                yield bench.warm_up()
            case protocol.Take() if bench is not None:
                yield bench.take(request)
            case protocol.Finish() if bench is not None:
                yield bench.finish()
                return
            case protocol.Describe():
                from deploykit.bench.describe import describe_source

                described, describe = describe_source(request.source)
                yield described
            case protocol.CountMacs() if describe is not None:
                yield protocol.MacsCounted(describe(request.feeds))
            case protocol.TimeProbes():
                from deploykit.bench.layer_timing import LayerClock

                model = Path(request.model)
                if clock is None:
                    if request.target.cpus:
                        pin(request.target.cpus)
                    clock = LayerClock(request.target, model.parent)
                times = clock.time(model, request.probes, request.duration_ns)
                yield protocol.ProbesTimed(times)
            case protocol.Finish():
                return
            case _:
                raise BadInputError(f"{type(request).__name__} came out of turn")


def main() -> None:
    """Serve one parent on standard input and output."""
    out = _protect_stdout()
    requests = _requests()
    try:
        for answer in answers(requests):
            _send(out, answer)
    except DeploykitError as error:
        _send(out, protocol.Failed(int(error.exit_status), str(error)))
    except MemoryError:
        failed = protocol.Failed(int(ExitStatus.ENVIRONMENT_FAILED), "memory ran out")
        _send(out, failed)
    except Exception as error:  # noqa: BLE001  (whatever a library raises is a failed row)
        line = " ".join(f"{type(error).__name__}: {error}".split())
        failed = protocol.Failed(int(ExitStatus.ENVIRONMENT_FAILED), line)
        _send(out, failed)
    os._exit(0)  # no destructors: the parent has its answer, and some drivers crash on the way out


def _send(out: IO[bytes], answer: protocol.Message) -> None:
    out.write(protocol.encode(answer))
    out.flush()


def _protect_stdout() -> IO[bytes]:
    """Keep the real standard output for messages, and send what libraries print to stderr."""
    out = os.fdopen(os.dup(_STDOUT), "wb")
    os.dup2(_STDERR, _STDOUT)
    sys.stdout = sys.stderr
    return out


def _requests() -> Iterator[protocol.Message]:
    """Requests as they come; the process ends at once when its input does.

    A thread reads, so that the end is seen even in the middle of a long call.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with os.fdopen(_STDIN, "rb", closefd=False) as stdin:
            for line in stdin:
                lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield protocol.decode(lines.get())


if __name__ == "__main__":
    main()
