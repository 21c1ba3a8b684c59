"""Each doubt, with its figure and what to type next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deploykit.bench.doubts import Circumstances, Doubt, Kind, doubts_of
from deploykit.bench.result import summaries_of
from deploykit.bench.schedule import StopRules
from deploykit.core.measurement import (
    Machine,
    Measurement,
    ProcessRun,
    Samples,
    Status,
    Target,
)

MACHINE = Machine("cpu", "x86_64", (), 4, None, None, None, "", 0.0, None, None, "Linux", {})
RUN = ProcessRun(1, 1, 2_500_000_000, 9, True, None, None, None)
AROUND = Circumstances(MACHINE, StopRules(), 1, 0.0, 0.0)


def measured(
    latency: list[int] | None = None, process: list[int] | None = None, **fields: Any
) -> Measurement:
    latency = latency or [1000 + n % 3 for n in range(600)]
    count = len(latency)
    samples = Samples(
        latency_ns=tuple(latency),
        process=tuple(process or [0] * count),
        round=tuple(n * 12 // count for n in range(count)),
        order=(0,) * count,
    )
    plain = Measurement(
        "m", "", Target("ort-cpu"), MACHINE, None, Status.OK, samples=samples, processes=(RUN,)
    )
    return replace(plain, **fields)


def doubts(measurement: Measurement, around: Circumstances = AROUND) -> tuple[Doubt, ...]:
    return doubts_of([measurement], summaries_of([measurement]), around)


def only(measurement: Measurement, around: Circumstances = AROUND) -> Doubt:
    (found,) = doubts(measurement, around)
    return found


def test_a_good_measurement_has_none() -> None:
    assert doubts(measured()) == ()


def test_other_load() -> None:
    found = only(measured(), replace(AROUND, other_load=0.73))

    assert found.kind is Kind.OTHER_LOAD
    assert "kept 0.7 of this machine's CPUs busy" in found.text


def test_stolen_time() -> None:
    found = only(measured(), replace(AROUND, stolen=0.031))

    assert found.kind is Kind.STOLEN
    assert "3.1%" in found.text


def test_what_the_system_does_not_tell_is_no_doubt() -> None:
    assert doubts(measured(), replace(AROUND, other_load=None, stolen=None)) == ()


def test_governor() -> None:
    around = replace(AROUND, machine=replace(MACHINE, governor="powersave"))
    found = only(measured(), around)

    assert found.kind is Kind.GOVERNOR
    assert "'powersave'" in found.text
    assert "--governor performance" in found.advice


def test_more_threads_than_cpus() -> None:
    found = only(measured(target=Target("ort-cpu", threads=8)))

    assert found.kind is Kind.THREADS
    assert (found.text, found.advice) == ("8 threads share 4 CPUs", "--threads 4")


def test_more_threads_than_pinned_cpus() -> None:
    found = only(measured(target=Target("ort-cpu", threads=2, cpus=(3,))))

    assert found.text == "2 threads share 1 CPUs"
    assert found.advice == "--threads 1 or more --cpus"


def test_not_steady() -> None:
    found = only(measured(processes=(replace(RUN, steady=False),)))

    assert found.kind is Kind.NOT_STEADY
    assert found.row == 0
    assert "2.5 s of warm-up" in found.text


def test_an_interval_that_is_too_wide() -> None:
    latency = [1000 + 40 * (n * 12 // 600 % 2) + n % 7 for n in range(600)]
    found = only(measured(latency, status=Status.BUDGET_SPENT))

    assert found.kind is Kind.IMPRECISE
    assert found.text.startswith("the median is known to ±")
    assert found.advice.startswith("not ±1% from 100 calls or more, after the budget of 30 s: ")
    assert found.advice.endswith("--budget 120s")


def test_a_budget_that_was_too_short_for_the_count() -> None:
    found = only(measured(status=Status.BUDGET_SPENT))

    assert found.text == "600 calls"
    assert found.advice.endswith("after the budget of 30 s: --budget 120s")


def test_many_calls_of_one_slice_are_not_called_few() -> None:
    once = measured(status=Status.BUDGET_SPENT)
    once = replace(once, samples=replace(once.samples, round=(0,) * 600))

    assert only(once).text == "600 calls, in slices too few or too unlike for an interval"


def test_few_calls_are_called_few() -> None:
    assert only(measured([1000, 1001], status=Status.BUDGET_SPENT)).text == (
        "2 calls, too few for an interval"
    )


def test_drift() -> None:
    found = only(measured([1000 if n < 300 else 1100 for n in range(600)]))

    assert found.kind is Kind.DRIFT
    assert "10% slower" in found.text


@pytest.mark.parametrize(("processes", "advised"), [(2, True), (5, False)])
def test_processes_that_differ_are_not_told_to_use_what_they_used(
    processes: int, advised: bool
) -> None:
    latency = [1000 + 100 * (n % 2) for n in range(600)]
    process = [n % 2 for n in range(600)]
    found = doubts(measured(latency, process), replace(AROUND, processes=processes))
    (doubt,) = [doubt for doubt in found if doubt.kind is Kind.PROCESSES]

    assert "differ by 10%" in doubt.text
    assert ("--processes 5" in doubt.advice) is advised


def test_a_failed_row_has_none() -> None:
    failed = measured(status=Status.FAILED)

    assert doubts_of([failed], [None], AROUND) == ()
