"""The kernel's counters, on real allocations."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from deploykit.bench.memory import Baseline, error_bound_bytes, share_bytes

MB = 1_000_000


def told(code: list[str]) -> Any:
    """Run `code` in a process of its own; the last line that it prints is JSON."""
    lines = ["import json, mmap", "from deploykit.bench import memory", *code]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak from a point on")
def test_a_spike_that_is_gone_is_seen_and_one_before_the_start_is_not() -> None:
    share = told(
        [
            "ballast = bytearray(90_000_000)",
            "del ballast",
            "baseline = memory.start()",
            "spike = mmap.mmap(-1, 30_000_000)",
            "for at in range(0, 30_000_000, 4096): spike[at] = 1",
            "spike.close()",
            "print(json.dumps(memory.share_bytes(baseline, memory.peak_bytes())))",
        ]
    )

    assert share == pytest.approx(30 * MB, abs=MB)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak from a point on")
def test_nothing_costs_nothing() -> None:
    share = told(
        [
            "baseline = memory.start()",
            "print(json.dumps(memory.share_bytes(baseline, memory.peak_bytes())))",
        ]
    )

    assert share < MB


@pytest.mark.parametrize(
    ("baseline", "peak"),
    [
        (Baseline(10, restarted=True), None),
        (Baseline(None, restarted=True), 20),
        (Baseline(10, restarted=False), 20),
    ],
)
def test_what_cannot_be_told_is_none_and_not_zero(baseline: Baseline, peak: int | None) -> None:
    assert share_bytes(baseline, peak) is None


def test_the_bound_of_the_kernels_error_grows_with_the_cpus() -> None:
    assert error_bound_bytes(2) == 2 * 32 * 4096
    assert error_bound_bytes(64) == 64 * 128 * 4096
