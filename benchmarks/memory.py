"""Peak memory as `deploykit bench` tells it, against allocations of known size."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from statistics import median

from benchmarks.result import Figure, Result
from deploykit.bench import memory

GOAL = (
    "The model's share of peak memory is within 1 % or 1 MB of what was really allocated, "
    "including an allocation that lives for about 1 ms."
)
_MB = 1_000_000
_SIZES_MB = (2, 20, 200)
_SPIKE_MB = 4  # what can be touched in about a millisecond
_TRIALS, _QUICK_TRIALS = 11, 3


def run(*, quick: bool) -> Result:
    """One child process a trial: baseline, allocation, peak, as the bench's worker does it."""
    figures = []
    for held_mb, spike_mb in (*((size, 0) for size in _SIZES_MB), (20, _SPIKE_MB)):
        trials = [_trial(held_mb, spike_mb) for _ in range(_QUICK_TRIALS if quick else _TRIALS)]
        known = (held_mb + spike_mb) * _MB
        worst = max((told - known for told, _ in trials), key=abs)
        most = max(0.01 * known, _MB)
        name = f"{held_mb} MB" + (f" and a spike of {spike_mb} MB" if spike_mb else "")
        figures.append(
            Figure(
                f"{name}: worst error of {len(trials)} processes",
                worst / 1e3,
                "kB",
                f"within {most / 1e3:.0f}",
                met=abs(worst) <= most,
            )
        )
        if spike_mb:
            figures.append(Figure("the spike lived for", median(ms for _, ms in trials), "ms"))
    return Result(tuple(figures))


def _trial(held_mb: int, spike_mb: int) -> tuple[int, float]:
    command = [sys.executable, "-m", "benchmarks.memory", str(held_mb), str(spike_mb)]
    told, spike_ms = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return int(told), float(spike_ms)


def _child(held_mb: int, spike_mb: int) -> tuple[int, float]:
    """What bench says of an allocation, in bytes, and how long the spike lived, in ms."""
    import onnxruntime  # noqa: F401  (a worker's imports, whose memory is not the model's)

    ballast = bytearray(50 * _MB)  # a peak before the baseline, which must not count
    del ballast
    baseline = memory.start()
    held = _touched(held_mb * _MB)
    began = time.perf_counter_ns()
    if spike_mb:
        _touched(spike_mb * _MB).close()
    spike_ms = (time.perf_counter_ns() - began) / 1e6
    share = memory.share_bytes(baseline, memory.peak_bytes())
    held.close()
    if share is None:
        sys.exit("this system does not tell the peak of a process from a point on")
    return share, spike_ms


def _touched(size: int) -> mmap.mmap:
    """Anonymous memory of which every page is resident."""
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    for offset in range(0, size, mmap.PAGESIZE):
        block[offset] = 1
    return block


if __name__ == "__main__":
    print(json.dumps(_child(int(sys.argv[1]), int(sys.argv[2]))))
