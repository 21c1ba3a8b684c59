"""Real measuring processes: what they answer, how they fail, and that they end."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploykit.bench import protocol
from deploykit.bench.cases import Case, Wanted, cases_of, onnx_subject
from deploykit.bench.child import WORKER, Child
from deploykit.bench.run import Plan, Weight, onnx_weight, run_bench
from deploykit.bench.schedule import StopRules
from deploykit.bench.timing import WarmUpRules
from deploykit.core.errors import BadInputError, EnvironmentFailedError, MissingExtraError
from deploykit.core.measurement import Status, Target
from deploykit.core.progress import silent
from deploykit.load.artifacts import load_artifact
from deploykit.load.datasets import open_data

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.load.data import Data

QUICK = Plan(
    rules=StopRules(min_time_ns=1, min_count=1, precision=1e9, slice_ns=1_000_000, lead_in_ns=0),
    warm_up=WarmUpRules(window_ns=1000, most_ns=1_000_000),
)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    np.savez(tmp_path / "data.npz", x=np.full((4, 2), 4.0, np.float32))
    return open_data(str(tmp_path / "data.npz"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = sqrt(x): NaN for negative inputs."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sqrt", ["x"], ["y"])], "g", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "sqrt.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def request(model: Path, value: float = 4.0, runtime: str = "ort-cpu") -> protocol.Open:
    feeds = model.with_suffix(".npz")
    protocol.save_feeds(feeds, {"x": np.full((1, 2), value, np.float32)})
    target = Target(runtime, threads=1)
    return protocol.Open(
        runtime, target, str(feeds), artifact=load_artifact(model), warm_up=QUICK.warm_up
    )


def test_a_worker_measures(model: Path) -> None:
    with Child() as child:
        opened = child.ask(request(model), protocol.Opened)
        taken = child.ask(protocol.Take(2_000_000, 0), protocol.Taken)
        finished = child.ask(protocol.Finish(), protocol.Finished)

    assert opened.load_ns > 0
    assert opened.first_ns > 0
    assert opened.facts["providers"] == ("CPUExecutionProvider",)
    assert sum(taken.latency_ns) > 1_000_000
    assert min(taken.latency_ns) > 0
    assert finished.cpu_ns > 0


@pytest.mark.parametrize("strange", [4000, 10**12])
def test_a_cpu_that_is_not_there_is_refused_even_beside_one_that_is(
    model: Path, strange: int
) -> None:
    cpu = min(os.sched_getaffinity(0))
    asked = request(model)
    asked = replace(asked, target=replace(asked.target, cpus=(cpu, strange)))

    with (
        Child() as child,
        pytest.raises(BadInputError, match=rf"^cannot pin to CPU {strange}; allowed: --cpus {cpu}"),
    ):
        child.ask(asked, protocol.Opened)


@pytest.mark.parametrize(
    ("value", "runtime", "kind", "message"),
    [
        (-1.0, "ort-cpu", BadInputError, "output 'y' has NaN.*--data"),
        (4.0, "ort-cuda", MissingExtraError, "ort-cuda cannot run here.*pip install"),
        (4.0, "ort-cup", BadInputError, "no runtime 'ort-cup'; did you mean 'ort-cpu'"),
    ],
)
def test_a_worker_that_refuses_says_why_with_its_class(
    model: Path, value: float, runtime: str, kind: type[Exception], message: str
) -> None:
    with Child() as child, pytest.raises(kind, match=message):
        child.ask(request(model, value, runtime), protocol.Opened)


def test_a_message_out_of_turn_is_refused() -> None:
    with Child() as child, pytest.raises(BadInputError, match="Take came out of turn"):
        child.ask(protocol.Take(1, 0), protocol.Taken)


def test_what_libraries_print_does_not_disturb_the_messages() -> None:
    code = (
        "import os; from deploykit.bench import protocol, worker\n"
        "out = worker._protect_stdout()\n"
        "print('noise'); os.system('echo noise'); os.write(1, b'noise')\n"
        "worker._send(out, protocol.MacsCounted(7))\n"
    )
    with Child((sys.executable, "-c", code)) as child:
        assert child.ask(protocol.Finish(), protocol.MacsCounted) == protocol.MacsCounted(7)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed .* memory ran out"),
        ("raise SystemExit('no driver')", "ended with status 1: no driver"),
    ],
)
def test_a_worker_that_dies_is_an_error_of_the_environment(code: str, message: str) -> None:
    with (
        Child((sys.executable, "-c", code)) as child,
        pytest.raises(EnvironmentFailedError, match=message),
    ):
        child.ask(protocol.Finish(), protocol.Finished)


def test_a_worker_ends_when_its_input_does(model: Path) -> None:
    """Even in the middle of a slice: a parent that was killed leaves no orphan."""
    process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(protocol.encode(request(model)))
    process.stdin.flush()
    assert isinstance(protocol.decode(process.stdout.readline()), protocol.Opened)
    process.stdin.write(protocol.encode(protocol.Take(3600 * 10**9, 3600 * 10**9)))
    process.stdin.close()

    assert process.wait(timeout=30) == 0
    process.stdout.close()


def test_a_crash_is_a_failed_row_and_the_others_go_on(model: Path, data: Data) -> None:
    """The second of three cases gets a process that kills itself."""
    subject = onnx_subject(str(model))
    cases = cases_of(
        [subject], Wanted(runtimes=("ort-cpu",), batches=(1, 2, 3), threads=(1,)), data
    )
    crash = (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    commands = iter([WORKER, crash, WORKER])
    result = run_bench(
        cases, QUICK, lambda case, feeds: onnx_weight(case), silent, lambda: Child(next(commands))
    )

    assert [m.status for m in result.measurements] == [Status.OK, Status.FAILED, Status.OK]
    assert "SIGSEGV" in (result.measurements[1].error or "")
    assert result.measurements[1].samples.latency_ns == ()
    assert [summary is None for summary in result.summaries] == [False, True, False]
    assert result.exit_statuses == (0, 5, 0)
    assert result.exit_status == 5
    assert result.every_error() == ()


def test_what_is_the_same_in_two_rows_is_weighed_once(model: Path, data: Data) -> None:
    subject = onnx_subject(str(model))
    wanted = Wanted(runtimes=("ort-cpu",), batches=(1, 2), threads=(1, 2))
    asked = []

    def weigh(case: Case, feeds: str) -> Weight:
        asked.append(feeds)
        return Weight(parameters=case.target.batch)

    result = run_bench(cases_of([subject], wanted, data), QUICK, weigh, silent)

    assert [m.parameters for m in result.measurements] == [1, 1, 2, 2]
    assert len(asked) == 2


def test_processes_are_fresh_and_in_the_record(model: Path, data: Data) -> None:
    subject = onnx_subject(str(model))
    cases = cases_of([subject], Wanted(runtimes=("ort-cpu",), threads=(1,)), data)
    plan = Plan(QUICK.rules, QUICK.warm_up, processes=2)
    result = run_bench(cases, plan, lambda case, feeds: onnx_weight(case), silent)
    (measurement,) = result.measurements

    assert len(measurement.processes) == 2
    assert set(measurement.samples.process) == {0, 1}
    assert all(run.peak_rss_bytes for run in measurement.processes)
    assert measurement.size_bytes == model.stat().st_size
    assert measurement.target.shapes == {"x": (1, 2)}
