"""What calibration takes of memory and time, beside ONNX Runtime's own calibrators.

Every calibration runs in a process of its own, on all cores; ours and the peer's right after one
another, and a pair is kept together (`kept.py`), so that an interrupted run goes on. Peaks are the
kernel's, over the whole life of the process, less that of a process that only opens the float
network. What would not fit beside the others on a machine of 24 GB is never started: what it would
need follows from smaller runs.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import packages
from benchmarks.calibration_job import BARE, EXPORT, FLOAT, METHODS, STORED, Job, Outcome, ask
from benchmarks.kept import Kept
from benchmarks.result import Figure, Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GOAL = (
    "Ranges of ResNet-18 in flat memory: at most 1 MB more for 1,024 images than for 16, at most "
    "1.5x of one batch's activations and 64 MB over the float session, predicted within 20 %. "
    "With 128 images, each method takes at most a fifth of the memory and half of the time of ONNX "
    "Runtime's. Ranges equal those of all values stored: min-max to the bit, entropy and "
    "percentile within a bin. ONNX Runtime's min-max stores no values: what a bare run of the "
    "float network takes by it is printed beside."
)
_OURS, _PEER = "benchmarks.calibrate_one", "benchmarks.peers.ort_calibrate"
_COUNTS = (16, 128, 1024)
_COMPARED = 128
_BATCH = 16
_SMALL, _LARGE = 224, 1760
_ROUNDS = 5
_FULL_S = 38 * 60.0  # what then is not reached is asked by the next run
_MOST_BYTES = 8_000_000_000  # for one process: other work goes on beside it
_MB = 1e6
_MOST_GROWTH_MB, _BATCHES, _OVER_MB, _OFF = 1.0, 1.5, 64.0, 20.0
_MOST_MEMORY, _MOST_TIME = 0.2, 0.5  # of the peer's


@dataclass(frozen=True, slots=True)
class Pair:
    """The same by both, one after the other.

    Attributes:
        ours: of deploykit.
        peer: of ONNX Runtime; `None` where it was not asked.
    """

    ours: Outcome
    peer: Outcome | None = None

    def time_share(self) -> float | None:
        """Our time by the peer's."""
        return None if self.peer is None else self.ours.seconds / self.peer.seconds


class Runs:
    """What is known of all jobs, and a way to know more."""

    def __init__(self, kept: Kept[Pair], until: float) -> None:
        """Begin.

        Args:
            kept: of this code and machine.
            until: when to begin nothing more, of `time.monotonic`.
        """
        self._kept, self._until = kept, until
        self.missing = 0

    def pair(self, job: Job, number: int = 0, *, peer: bool = True) -> Pair | None:
        """What both make of a job; `None` where there was no time for it."""
        key = f"{job.what}-{job.images}-{job.size}-{number}{'' if peer else '-ours'}"
        found = self._kept.load(key)
        if found is None and time.monotonic() > self._until:
            self.missing += 1
            return None
        if found is None:
            # Each goes first in turn: neither always finds the machine as the other left it.
            first = ask(_PEER, job) if peer and number % 2 else None
            ours = ask(_OURS, job)
            found = Pair(ours, first or (ask(_PEER, job) if peer else None))
            self._kept.save(key, found)
            print(f"  {key}: {_told(found)}", file=sys.stderr, flush=True)
        return found


def run(*, quick: bool) -> Result:
    """Small runs before large ones."""
    packages.install()
    until = time.monotonic() + _FULL_S
    runs = Runs(Kept.under(Pair, "calibration-memory", _sources()), until)
    return Result(tuple(_quick(runs) if quick else _full(runs)))


def _quick(runs: Runs) -> Iterator[Figure]:
    job = Job("entropy", _model(_SMALL), images=2 * _BATCH, batch=_BATCH)
    base, pair = runs.pair(_float(job)), runs.pair(job)
    if pair is not None:
        yield from _alone(job, pair.ours, base)
        if pair.peer is not None and base is not None and base.peer is not None:
            share = _over([pair.ours], base.ours) / _over([pair.peer], base.peer)
            yield Figure("memory by ONNX Runtime's", share, "x")
            yield Figure("time by ONNX Runtime's", pair.time_share() or 0.0, "x")


def _full(runs: Runs) -> Iterator[Figure]:
    small = _model(_SMALL)
    jobs = {(m, n): Job(m, small, n, _BATCH) for m in METHODS for n in _COUNTS}
    base = runs.pair(_float(jobs["min-max", 16]))
    yield from _equal(runs, jobs)
    found: dict[tuple[str, int], list[Pair]] = {}
    for count in _COUNTS[:2]:
        for number in range(_ROUNDS):
            for method in METHODS:
                pair = runs.pair(jobs[method, count], number)
                if pair is not None:
                    found.setdefault((method, count), []).append(pair)
    yield from _floor(runs, jobs["min-max", _COMPARED], found.get(("min-max", _COMPARED), []), base)
    for method in METHODS:
        yield from _beside(method, found, base)
        yield from _many(runs, jobs[method, _COUNTS[-1]], found, base)
    yield from _large(runs, found)
    name = "calibrations not reached in the time, run again to go on"
    yield Figure(name, runs.missing, "", "0", met=not runs.missing)


def _equal(runs: Runs, jobs: dict[tuple[str, int], Job]) -> Iterator[Figure]:
    """Our ranges beside those of all values stored."""
    job = jobs["min-max", 16]
    # Two batches, so that a range comes of more than one.
    stored = runs.pair(Job(STORED, job.model, job.images, job.batch // 2), peer=False)
    for method in METHODS:
        ours = runs.pair(Job(method, job.model, job.images, job.batch // 2), 9, peer=False)
        if stored is None or ours is None:
            return
        pairs = [
            (one, stored.ours.ranges[f"{method} {name}"]) for name, one in ours.ours.ranges.items()
        ]
        name = f"{method}: of {len(pairs)} tensors, ranges unlike those of all values"
        unlike = sum(_bins(one, other) > (0 if method == "min-max" else 1) for one, other in pairs)
        within = "to the bit" if method == "min-max" else "within a bin"
        yield Figure(name, unlike, "", f"0, {within}", met=unlike == 0)


def _bins(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """How far two ranges are apart, in bins; in units of the values where there are none."""
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) / (other[2] or 1.0)


def _beside(
    method: str, found: dict[tuple[str, int], list[Pair]], base: Pair | None
) -> Iterator[Figure]:
    """Ours and the peer's with 16 and 128 images."""
    for count in _COUNTS[:2]:
        pairs = found.get((method, count), [])
        if not pairs or base is None or base.peer is None:
            return
        name = f"{method}, {count} images"
        ours = _over([pair.ours for pair in pairs], base.ours)
        theirs = _over([pair.peer for pair in pairs if pair.peer], base.peer)
        yield Figure(f"{name}: memory over the float session", ours, "MB")
        yield Figure(f"{name}: ONNX Runtime's", theirs, "MB")
        ours_s = median(pair.ours.seconds for pair in pairs)
        peer_s = median(pair.peer.seconds for pair in pairs if pair.peer)
        yield Figure(f"{name}: time", ours_s, "s")
        yield Figure(f"{name}: ONNX Runtime's time", peer_s, "s")
        if count != _COMPARED:
            continue
        share = ours / theirs
        goal = f"at most {_MOST_MEMORY:g}"
        yield Figure(f"{name}: memory by the peer's", share, "x", goal, met=share <= _MOST_MEMORY)
        share = median(x for pair in pairs if (x := pair.time_share()) is not None)
        goal = f"at most {_MOST_TIME:g}"
        title = f"{name}: time by the peer's, median of {len(pairs)} pairs"
        yield Figure(title, share, "x", goal, met=share <= _MOST_TIME)


def _floor(runs: Runs, job: Job, beside: Sequence[Pair], base: Pair | None) -> Iterator[Figure]:
    """What the float network alone takes: no calibration can take less."""
    bare = Job(BARE, job.model, job.images, job.batch)
    found = [runs.pair(bare, number, peer=False) for number in range(_ROUNDS)]
    ours = [pair.ours for pair in found if pair is not None]
    peers = [pair.peer for pair in beside if pair.peer is not None]
    if not ours or not peers or base is None or base.peer is None:
        return
    name = f"a bare float run over {job.images} images by ONNX Runtime's min-max"
    yield Figure(f"{name}: memory", _over(ours, base.ours) / _over(peers, base.peer), "x")
    shares = median(one.seconds for one in ours) / median(one.seconds for one in peers)
    yield Figure(f"{name}: time", shares, "x")


def _many(
    runs: Runs, job: Job, found: dict[tuple[str, int], list[Pair]], base: Pair | None
) -> Iterator[Figure]:
    """1,024 images: ours, and what the peer would need."""
    pair = runs.pair(job, peer=False)
    if pair is not None:
        yield from _alone(job, pair.ours, base)
    needed = _needed(job, found)
    if needed is not None:
        name = f"{job.what}, {job.images} images: ONNX Runtime not run, would need about"
        yield Figure(name, needed / 1e9, "GB")


def _alone(job: Job, ours: Outcome, base: Pair | None) -> Iterator[Figure]:
    """What needs no peer: flat, bounded, predicted."""
    name = f"{job.what}, {job.images} images"
    grown = ours.growth_bytes / _MB
    goal = f"at most {_MOST_GROWTH_MB:g}"
    yield Figure(f"{name}: more than at 16", grown, "MB", goal, met=grown <= _MOST_GROWTH_MB)
    yield from _bounded(name, ours, base)
    yield Figure(f"{name}: time", ours.seconds, "s")


def _bounded(name: str, ours: Outcome, base: Pair | None) -> Iterator[Figure]:
    if base is not None:
        over = _over([ours], base.ours)
        most = _BATCHES * ours.activations_bytes / _MB + _OVER_MB
        title = f"{name}: over the float session"
        yield Figure(title, over, "MB", f"at most {most:.0f}", met=over <= most)
    off = 100 * ((ours.predicted_bytes or 0) / ours.peak_bytes - 1)
    goal = f"within {_OFF:g}"
    yield Figure(f"{name}: peak as predicted", off, "%", goal, met=abs(off) <= _OFF)


def _large(runs: Runs, found: dict[tuple[str, int], list[Pair]]) -> Iterator[Figure]:
    """One image of 1760 x 1760."""
    model = _model(_LARGE)
    base = None
    for method in METHODS:
        job = Job(method, model, 1, 1, _LARGE)
        base = base or runs.pair(_float(job))
        needed = _needed(job, found)
        fits = needed is not None and needed < _MOST_BYTES
        pair = runs.pair(job, peer=fits)
        if pair is None or base is None or base.peer is None:
            continue
        name = f"{method}, an image of {_LARGE}x{_LARGE}"
        yield from _bounded(name, pair.ours, base)
        yield Figure(f"{name}: time", pair.ours.seconds, "s")
        if pair.peer is not None:
            yield Figure(f"{name}: ONNX Runtime's memory", _over([pair.peer], base.peer), "MB")
            yield Figure(f"{name}: ONNX Runtime's time", pair.peer.seconds, "s")


def _needed(job: Job, found: dict[tuple[str, int], list[Pair]]) -> float | None:
    """What the peer would take for a job, from its runs with 16 and 128 small images."""
    few, more = (
        [pair.peer.peak_bytes for pair in found.get((job.what, count), []) if pair.peer]
        for count in _COUNTS[:2]
    )
    if not few or not more:
        return None
    first, second = median(few), median(more)
    each = (second - first) / (_COUNTS[1] - _COUNTS[0])
    if job.what == "min-max":  # it keeps nothing of a batch that is done
        each = max(each, first / _BATCH)
        return first if job.size == _SMALL else each * (job.size / _SMALL) ** 2
    return first + each * (job.images * (job.size / _SMALL) ** 2 - _COUNTS[0])


def _over(outcomes: Sequence[Outcome], base: Outcome) -> float:
    """Median of the peaks over that of a float session, in MB."""
    return (median(one.peak_bytes for one in outcomes) - base.peak_bytes) / _MB


def _told(pair: Pair) -> str:
    parts = [("ours", pair.ours), *([("peer", pair.peer)] if pair.peer else [])]
    return "; ".join(
        f"{who} {one.peak_bytes / _MB:.0f} MB, {one.seconds:.1f} s ({one.cpu_seconds:.1f} s of CPU)"
        for who, one in parts
    )


def _float(job: Job) -> Job:
    return Job(FLOAT, job.model, job.images, job.batch, job.size)


def _model(size: int) -> str:
    """The exported network, made where it is not there."""
    path = packages.BENCH / "calibration" / f"resnet18-{size}" / "model.onnx"
    if not path.is_file():
        ask(_OURS, Job(EXPORT, str(path), batch=_COMPARED if size == _SMALL else 1, size=size))
    return str(path)


def _sources() -> list[Path]:
    benchmarks = packages.ROOT / "benchmarks"
    names = ("calibration_job.py", "calibrate_one.py", "peers/ort_calibrate.py", "zoo.py")
    code = (packages.ROOT / "deploykit" / "quantize").rglob("*.py")
    return [*code, *(benchmarks / name for name in names)]
