"""Quantization, end to end: read, prepare, calibrate, place, search, measure, hand over.

::

    float ─► settle ─► accuracy control ─► never slower ─► prove, judge, record ─► folder

Each step may leave layers in float, and says why. What is slower than the float network, or loses
more than was allowed, is not handed over unless forced.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.bench.integers import missing_instructions
from deploykit.bench.machine import machine_facts
from deploykit.bench.optimised import Leftovers, leftovers
from deploykit.core import records
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.progress import Progress, silent
from deploykit.core.report import Report
from deploykit.flow.budget import Purse, parse_budget
from deploykit.flow.exits.again import stages_again
from deploykit.flow.folders import REPORT_NAME, check_free, writing_folder
from deploykit.flow.quantize.control import Control, accuracy_control
from deploykit.flow.quantize.judge import Bench, proof_checks
from deploykit.flow.quantize.layers import layer_rows
from deploykit.flow.quantize.record import (
    QUANTIZATION,
    QUANTIZATION_NAME,
    RANGES_NAME,
    LeftoverRow,
    Quantization,
)
from deploykit.flow.quantize.request import FILES, QuantizeRequest, QuantizeResult
from deploykit.flow.quantize.search import Trial
from deploykit.flow.quantize.speed import SLOWER, faster
from deploykit.flow.quantize.work import Work, check_fits, unadjusted
from deploykit.flow.side_by_side import RUNTIME
from deploykit.flow.splits import open_splits
from deploykit.load.artifacts import load_artifact, read_graph
from deploykit.load.datasets import open_data
from deploykit.quantize.ranges import RANGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploykit.core.report import Check
    from deploykit.core.types import OnnxArtifact
    from deploykit.flow.quantize.work import Made

__all__ = ["FILES", "QuantizeRequest", "QuantizeResult", "run_quantize"]

_MEASURED = ("ort-cpu", "portable")
"""Targets whose latency this machine can take on ONNX Runtime."""
_MOST_SETTLED = 3
"""Rounds: what goes back to float may leave another node between floats."""


def run_quantize(request: QuantizeRequest, progress: Progress = silent) -> QuantizeResult:
    """Do all of it.

    Raises:
        BadInputError: the network cannot be quantized, or data or options do not fit.
        CheckFailedError: it is slower than the float network, or nothing that was tried loses so
            little as `max_drop`; not with `force`. Nothing is left behind.
        EnvironmentFailedError: it cannot be written or run.
    """
    from deploykit.quantize.prepare.prepare import prepare

    check_free(request.out, overwrite=request.overwrite, ours=FILES)
    request.options()  # refused before anything is read
    purse = Purse(parse_budget(request.budget))
    original = load_artifact(request.source)
    data = open_data(request.calibrate)
    splits = open_splits(request.val, request.eval)
    for one in (data, *splits.named.values()):
        check_fits(one, original)
    bench = Bench(request, original, splits, progress)
    bench.check_request()
    progress("preparing the graph", None)
    prepared = prepare(read_graph(original.model_path), original.folder)
    searching = request.max_drop is not None
    work = Work(request, original, prepared, data, progress, searching)
    with (
        writing_folder(request.out, overwrite=request.overwrite, ours=FILES) as folder,
        tempfile.TemporaryDirectory(prefix="deploykit-") as scratch,
    ):
        result = _Run(work, bench, purse, Path(scratch)).fill(folder)
    return replace(result, artifact=replace(result.artifact, folder=request.out))


@dataclass(slots=True, eq=False)
class _Run:
    """A quantization under way.

    Attributes:
        work: what trials share.
        bench: where candidates are judged.
        purse: of accuracy control.
        scratch: a folder for candidates.
        control: what accuracy control came to.
    """

    work: Work
    bench: Bench
    purse: Purse
    scratch: Path
    control: Control = field(default_factory=Control)

    def fill(self, folder: Path) -> QuantizeResult:
        """Write everything into an empty folder."""
        runs_here = self.work.request.options()[0].target in _MEASURED
        if runs_here:
            self._settle()
        if self.work.searching:
            self.control = accuracy_control(self.work, self.bench, self.purse, self.scratch)
            self.control.check(self.work.request)
        trial = self.control.trial
        if runs_here and self.work.request.measure:
            self._never_slower(trial)
        made = self.work.made(trial)
        artifact = self.work.written(made, trial, folder)
        found = leftovers(artifact) if runs_here else Leftovers()
        work = self.work
        artifact, exits = stages_again(
            work.original, artifact, folder, self.bench.splits, work.progress
        )
        record = self._record(made, trial, found)
        records.save(folder / QUANTIZATION_NAME, record, QUANTIZATION)
        records.save(folder / RANGES_NAME, self.work.ranges(made, trial), RANGES)
        checks = (*self._checks(artifact, found, runs_here=runs_here), *exits)
        report = Report(artifact.digest, checks)
        records.save(folder / REPORT_NAME, report, records.REPORT)
        return QuantizeResult(artifact, report, record)

    def _settle(self) -> None:
        """What ONNX Runtime has no integer kernel for, as it stands, is float in every trial."""
        trial = unadjusted(Trial())
        for _ in range(_MOST_SETTLED):
            made = self.work.made(trial)
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                found = leftovers(self.work.written(made, trial, Path(folder)))
            blamed = {
                name: one.why
                for one in (*found.floats, *found.orphans)
                for name in one.blames
                if name in made.quantized.decision.nodes
            }
            if not blamed:
                return
            before = dict(self.work.settled)
            self.work.settled.update(blamed)
            try:
                self.work.made(trial)
            except BadInputError:  # nothing would be left: rather slow than nothing
                self.work.settled = before
                return

    def _never_slower(self, trial: Trial) -> None:
        """Layers whose integers are slower stay float, unless that cost accuracy."""
        self.work.progress("timing every layer in float and in integers", None)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            names = faster(self.work, self.bench, trial, Path(folder))
        before = dict(self.work.settled)
        self.work.settled.update(dict.fromkeys(names, SLOWER))
        if names and self.control.met:
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                artifact = self.work.written(self.work.made(trial), trial, Path(folder))
                if not self.bench.lost(artifact).met:
                    self.work.settled = before

    def _record(self, made: Made, trial: Trial, found: Leftovers) -> Quantization:
        left = (*found.floats, *found.orphans)
        return Quantization(
            self.work.request.options()[0].target,
            layer_rows(self.work, made, trial),
            self.work.count,
            self.work.all_options(trial),
            self.control.rows,
            self.control.text,
            tuple(LeftoverRow(one.node, one.op, one.why) for one in left),
        )

    def _checks(
        self, artifact: OnnxArtifact, found: Leftovers, *, runs_here: bool
    ) -> Iterator[Check]:
        if runs_here:
            yield from proof_checks(found)
            if self.work.request.measure:
                yield self._latency(artifact)
        yield from self.bench.accuracy_checks(artifact)

    def _latency(self, artifact: OnnxArtifact) -> Check:
        """Never slower than the float network.

        Raises:
            CheckFailedError: it is, and nobody forces it.
        """
        self.work.progress("measuring float and quantized in turns", None)
        original = self.work.original.model_path
        found = self.bench.compare(original, artifact.model_path, careful=True)
        missing = missing_instructions(machine_facts())
        why = f"this CPU has no {missing}" if missing else ""
        if found.share > 1 and not self.work.request.force:
            raise CheckFailedError(
                f"quantization does not help here: {original.name} takes {found.share:.3g}x of its "
                f"time on {RUNTIME}{why and '; '}{why}; nothing was written; --force hands it over "
                "all the same"
            )
        return found.check(1.0, advice=why)
