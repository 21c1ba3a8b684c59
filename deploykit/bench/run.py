"""Measure cases side by side: start their processes, run the rounds, put the record together."""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deploykit.bench import load, protocol
from deploykit.bench.cases import Case, Subject, pytorch_source, shown_name
from deploykit.bench.child import Child
from deploykit.bench.doubts import Circumstances, doubts_of
from deploykit.bench.machine import machine_facts
from deploykit.bench.result import BenchResult, summaries_of
from deploykit.bench.schedule import StopRules, Tally, run_rounds
from deploykit.bench.timing import WarmUpRules
from deploykit.core.errors import DeploykitError, ExitStatus
from deploykit.core.measurement import (
    Machine,
    Measurement,
    ProcessRun,
    Samples,
    Status,
)
from deploykit.core.types import OnnxArtifact
from deploykit.load.arrays import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deploykit.core.progress import Progress
    from deploykit.load.sources import Source


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure.

    Attributes:
        rules: when a case has enough.
        warm_up: when a process is warm.
        processes: fresh processes for each case, all in the same rounds.
        seed: of the order of turns.
        inputs: where the inputs came from, for people.
    """

    rules: StopRules = field(default_factory=StopRules)
    warm_up: WarmUpRules = field(default_factory=WarmUpRules)
    processes: int = 1
    seed: int = 0
    inputs: str = ""


@dataclass(frozen=True, slots=True)
class Weight:
    """What is known of a case without running it for time.

    Attributes:
        size_bytes: on disk, or `None`.
        parameters: learnt numbers, or `None`.
        macs: of one call, or `None`.
    """

    size_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None


class Describer:
    """Loads PyTorch sources in processes of their own and answers questions about them.

    A context manager: the processes live until it ends, since MACs are asked for later.
    """

    def __init__(self, start: Callable[[], Child] = Child) -> None:
        self._start = start
        # By identity: two networks of equal weights may still be different networks.
        self._asked: list[tuple[Source, Child, protocol.Described]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def subject(self, source: Source) -> Subject:
        """What `source` is.

        Raises:
            DeploykitError: it cannot be loaded.
        """
        name = shown_name(source.text)
        source = pytorch_source(source)
        child = self._stack.enter_context(self._start())
        described = child.ask(protocol.Describe(source), protocol.Described)
        self._asked.append((source, child, described))
        return Subject(name, source, described.inputs, described.digest)

    def weight(self, case: Case, feeds: str) -> Weight:
        """Parameters and MACs of a case; `None` where they cannot be told."""
        child, described = next(
            (child, described)
            for source, child, described in self._asked
            if source is case.subject.model
        )
        macs = child.ask(protocol.CountMacs(feeds), protocol.MacsCounted).macs
        return Weight(None, described.parameters, macs)


@dataclass(slots=True)
class _Lane:
    """One measuring process; see `deploykit.bench.schedule.Lane`."""

    case: int
    process: int
    child: Child
    opened: protocol.Opened
    finished: protocol.Finished | None = None

    @property
    def call_ns(self) -> int:
        return self.opened.warm_up.call_ns

    def take(self, duration_ns: int, lead_in_ns: int) -> Sequence[int]:
        return self.child.ask(protocol.Take(duration_ns, lead_in_ns), protocol.Taken).latency_ns

    def run(self) -> ProcessRun:
        warm_up, last = self.opened.warm_up, self.finished
        return ProcessRun(
            load_ns=self.opened.load_ns,
            first_ns=self.opened.first_ns,
            warmup_ns=warm_up.spent_ns,
            warmup_count=warm_up.count,
            steady=warm_up.steady,
            baseline_rss_bytes=self.opened.baseline_rss_bytes,
            peak_rss_bytes=last.peak_rss_bytes if last else None,
            model_bytes=last.model_bytes if last else None,
            facts=self.opened.facts,
        )


def run_bench(
    cases: Sequence[Case],
    plan: Plan,
    weigh: Callable[[Case, str], Weight],
    progress: Progress,
    start: Callable[[], Child] = Child,
) -> BenchResult:
    """Measure all cases in interleaved rounds. A case that fails is a failed row.

    Args:
        cases: the rows, in order.
        plan: how to measure.
        weigh: parameters and MACs of a case with the feeds in an `.npz` file; asked once for
            each subject and set of inputs.
        progress: told where it stands.
        start: makes a measuring process.
    """
    machine = machine_facts()
    with tempfile.TemporaryDirectory(prefix="deploykit-bench-") as folder:
        feeds = [_write_feeds(Path(folder), number, case) for number, case in enumerate(cases)]
        weights = _weights(weigh, cases, feeds)
        before, began = load.account(), time.monotonic()
        tallies, runs = _measure(cases, feeds, plan, progress, start)
        # Their children have ended by now, so that their CPU time counts as our own.
        other_load, stolen = load.between(before, load.account(), time.monotonic() - began)
    measurements = tuple(
        _measurement(case, machine, tallies[number], runs.get(number, []), weights[number])
        for number, case in enumerate(cases)
    )
    result = BenchResult(
        rules=plan.rules,
        processes=plan.processes,
        seed=plan.seed,
        measurements=measurements,
        summaries=summaries_of(measurements),
        exit_statuses=tuple(_exit_status(tallies[number]) for number in range(len(cases))),
        inputs=plan.inputs,
        other_load=other_load,
        stolen=stolen,
    )
    around = Circumstances(
        machine=machine,
        rules=plan.rules,
        processes=plan.processes,
        other_load=other_load,
        stolen=stolen,
    )
    return replace(result, doubts=doubts_of(measurements, result.summaries, around))


def onnx_weight(case: Case) -> Weight:
    """Size, parameters and MACs of an ONNX artifact at a case's shapes."""
    from deploykit.bench.layers import layers_of, totals
    from deploykit.core.types import Dim

    artifact = case.subject.model
    assert isinstance(artifact, OnnxArtifact)
    sizes = {
        size.name: given
        for spec in artifact.inputs
        for size, given in zip(spec.shape, case.target.shapes[spec.name], strict=True)
        if isinstance(size, Dim)
    }
    found = totals(layers_of(artifact, sizes=sizes))
    return Weight(artifact.size_bytes, found.parameters, found.macs)


def _measure(
    cases: Sequence[Case],
    feeds: Sequence[str],
    plan: Plan,
    progress: Progress,
    start: Callable[[], Child],
) -> tuple[dict[int, Tally], dict[int, list[ProcessRun]]]:
    lanes: list[_Lane] = []
    failed: dict[int, Tally] = {}
    with ExitStack() as stack:
        for process in range(plan.processes):
            for number, case in enumerate(cases):
                if number in failed:
                    continue
                progress(f"loading {case.subject.name} on {case.target.runtime}", None)
                child = stack.enter_context(start())
                try:
                    opened = child.ask(_open(case, feeds[number], plan), protocol.Opened)
                except DeploykitError as error:
                    failed[number] = Tally(error=error)
                    child.close()
                    continue
                lanes.append(_Lane(number, process, child, opened))
        alive = [lane for lane in lanes if lane.case not in failed]
        chance = random.Random(plan.seed)  # noqa: S311  (an order of turns is no secret)
        tallies = dict(run_rounds(alive, plan.rules, chance, progress))
        for lane in alive:
            with suppress(DeploykitError):  # it failed: the tally has the error
                if tallies[lane.case].error is None:
                    lane.finished = lane.child.ask(protocol.Finish(), protocol.Finished)
    runs = {n: [lane.run() for lane in alive if lane.case == n] for n in range(len(cases))}
    return tallies | failed, runs


def _open(case: Case, feeds: str, plan: Plan) -> protocol.Open:
    model = case.subject.model
    if isinstance(model, OnnxArtifact):
        model = replace(model, folder=model.folder.resolve())
    return protocol.Open(
        runtime=case.target.runtime,
        target=case.target,
        feeds=feeds,
        artifact=model if isinstance(model, OnnxArtifact) else None,
        source=None if isinstance(model, OnnxArtifact) else model,
        warm_up=plan.warm_up,
    )


def _weights(
    weigh: Callable[[Case, str], Weight], cases: Sequence[Case], feeds: Sequence[str]
) -> list[Weight]:
    """Of each case. Rows that differ in runtime or threads only share theirs: a graph is large."""
    known: dict[tuple[int, int], Weight] = {}
    for case, file in zip(cases, feeds, strict=True):
        key = id(case.subject), id(case.feeds)
        if key not in known:
            known[key] = _weighed(weigh, case, file)
    return [known[id(case.subject), id(case.feeds)] for case in cases]


def _weighed(weigh: Callable[[Case, str], Weight], case: Case, feeds: str) -> Weight:
    try:
        return weigh(case, feeds)
    except Exception:  # noqa: BLE001  (what cannot be counted, for any reason, may be measured)
        model = case.subject.model
        return Weight(model.size_bytes if isinstance(model, OnnxArtifact) else None)


def _write_feeds(folder: Path, number: int, case: Case) -> str:
    path = folder / f"{number}.npz"
    protocol.save_feeds(path, case.feeds)
    return str(path)


def _measurement(
    case: Case, machine: Machine, tally: Tally, runs: list[ProcessRun], weight: Weight
) -> Measurement:
    failed = tally.error is not None
    status = Status.FAILED if failed else Status.BUDGET_SPENT if tally.spent else Status.OK
    return Measurement(
        name=case.subject.name,
        artifact_digest=case.subject.digest,
        target=case.target,
        machine=machine,
        input_digest=digest_of(case.feeds.items()),
        status=status,
        error=str(tally.error) if failed else None,
        samples=_samples(tally),
        processes=tuple(runs),
        size_bytes=weight.size_bytes,
        parameters=weight.parameters,
        macs=weight.macs,
    )


def _exit_status(tally: Tally) -> int:
    return int(ExitStatus.DONE if tally.error is None else tally.error.exit_status)


def _samples(tally: Tally) -> Samples:
    def column(name: str) -> Iterator[int]:
        return (getattr(turn, name) for turn in tally.turns for _ in turn.latency_ns)

    return Samples(
        latency_ns=tuple(ns for turn in tally.turns for ns in turn.latency_ns),
        process=tuple(column("process")),
        round=tuple(column("round")),
        order=tuple(column("order")),
    )
