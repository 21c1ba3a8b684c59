"""INT8 that is slower is not handed over, whatever the clock of this machine says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from deploykit.bench.integers import missing_instructions
from deploykit.bench.machine import machine_facts
from deploykit.core.errors import CheckFailedError
from deploykit.core.progress import silent
from deploykit.core.report import Verdict
from deploykit.flow.budget import Budget, Purse
from deploykit.flow.quantize.judge import Bench
from deploykit.flow.quantize.quantize import _Run
from deploykit.flow.quantize.request import QuantizeRequest
from deploykit.flow.quantize.work import Work
from deploykit.flow.side_by_side import SideBySide
from deploykit.flow.splits import Splits
from deploykit.load.artifacts import load_artifact, read_graph
from deploykit.load.datasets import open_data
from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Slower(Bench):
    """Timings as a slow machine would give them."""

    def compare(self, whole: Path, part: Path, *, careful: bool = False) -> SideBySide:
        return SideBySide(1e6, 1.2e6, 1.2, 1.1, 1.3)


@pytest.fixture
def run(tmp_path: Path, float_network: Callable[..., Path]) -> _Run:
    path = float_network(tmp_path / "net.onnx")
    artifact, prepared = load_artifact(path), prepare(read_graph(path), path.parent)
    request = QuantizeRequest(path, tmp_path / "out", "digits[:16]")
    work = Work(request, artifact, prepared, open_data("digits[:16]"), silent)
    bench = Slower(request, artifact, Splits(None, None), silent)
    return _Run(work, bench, Purse(Budget(1)), tmp_path)


def test_slower_is_refused_with_what_this_cpu_lacks(run: _Run) -> None:
    with pytest.raises(CheckFailedError) as raised:
        run._latency(run.work.original)

    said = str(raised.value)
    assert said.startswith("quantization does not help here: net.onnx takes 1.2x of its time")
    assert said.endswith("nothing was written; --force hands it over all the same")
    missing = missing_instructions(machine_facts())
    assert ("this CPU has no " in said) == bool(missing)
    assert missing in said


def test_force_hands_it_over_and_the_check_has_failed(run: _Run) -> None:
    run.work.request = replace(run.work.request, force=True)
    check = run._latency(run.work.original)

    assert (check.verdict, check.value, check.limit) == (Verdict.FAILED, 1.2, 1.0)
