"""What a teacher gains a student, beside the same training without one and beside torchdistill's.

Five seeds a pair. A seed decides initial weights, order and augmentation for all, so that
differences are taken seed by seed; their intervals are Student's. The peer teaches as that of its
examples does which is best on the validation data, ours as its options are by default.

Teachers are the networks of models/, which have learnt from all training images; students learn
from every fifth. The separable student is fashion_resnet with its convolutions split, nearest over
the weights. One from initial weights (fashion_separable, three epochs in batches of 64) is not
shown to gain in so short a training: 0.42 points, -0.29 to 1.13.

Results are kept training by training (`kept.py`), so that an interrupted run goes on.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from math import sqrt
from statistics import mean, stdev
from typing import TYPE_CHECKING

import msgspec

from benchmarks import packages
from benchmarks.distillation_one import ALONE, MODELS, OURS, PEER, TEACHER, Budget, Job, Made
from benchmarks.in_child import ONE_THREAD, ChildError, answer
from benchmarks.kept import Kept
from benchmarks.peers import torchdistill_packages
from benchmarks.peers.torchdistill_one import WAYS
from benchmarks.result import Figure, Result
from deploykit.core.student_t import student_t

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

GOAL = (
    "Student of the classic pair and a separable student of fashion_resnet, five seeds, the same "
    "budget: the 95 % interval of what the teacher gains is above 0, and our mean is not below "
    "the interval of torchdistill's."
)
_SEEDS = (0, 1, 2, 3, 4)
_CHOOSING_SEED = 10  # none of those that are reported
_FULL_S = 38 * 60.0  # what then is not reached is asked by the next run
_AT_ONCE = 2
_DECIDING = ("net.py", "plan.json", "recipe.toml")
_CONFIDENCE = 0.95
_POINTS = 100.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Who learns from whom.

    Attributes:
        student: a folder of models/.
        teacher: likewise.
        budget: of each training.
    """

    student: str
    teacher: str
    budget: Budget

    def job(self, tool: str, seed: int, way: str = "") -> Job:
        """One training of the pair."""
        return Job(self.student, self.teacher, tool, seed, self.budget, way)


_FULL = (
    Pair("student", "teacher", Budget(epochs=4)),
    Pair(  # as `compress separable` trains, at a quarter of the rate
        "fashion_resnet_separable", "fashion_resnet", Budget(epochs=4, learning_rate=0.025)
    ),
)
_QUICK = Pair(  # both in a moment: a small student, and a teacher that is shipped
    "student",
    "fashion_resnet",
    Budget(
        1, "fashion-mnist:train[:55000:50]", "fashion-mnist:val[::50]", "fashion-mnist:test[::50]"
    ),
)


def run(*, quick: bool) -> Result:
    """Two trainings at a time, each in a process of its own on one thread."""
    packages.install()
    torchdistill_packages.install()
    until = time.monotonic() + _FULL_S
    pairs = (_QUICK,) if quick else _FULL
    figures: list[Figure] = []
    missing = 0
    for pair in pairs:
        maker = _Maker.of(pair, until)
        teacher = maker.made([pair.job(TEACHER, 0)])
        way = next(iter(WAYS)) if quick else maker.best_way()
        seeds = _SEEDS[: 2 if quick else None]
        jobs = [
            [pair.job(ALONE, seed), pair.job(OURS, seed), pair.job(PEER, seed, way)]
            for seed in seeds
        ]
        made = maker.made(list(chain.from_iterable(jobs))) | teacher
        missing += 1 + len(seeds) * 3 - len(made)
        whole = [[_share(made[job]) for job in trio] for trio in jobs if made.keys() >= set(trio)]
        if len(whole) > 1:
            figures += _figures(pair, way, teacher, whole, judged=not quick)
    name = "trainings not reached in the time, run again to go on"
    figures.append(Figure(name, missing, "", "0", met=missing == 0))
    return Result(tuple(figures))


def _figures(
    pair: Pair,
    way: str,
    teacher: Mapping[Job, Made],
    seeds: Sequence[Sequence[float]],
    *,
    judged: bool,
) -> Iterator[Figure]:
    """Of whole seeds: alone, ours, the peer's, each in percent."""
    whom = f"{pair.student} from {pair.teacher}"
    count = len(seeds)
    alone, ours, peer = ([seed[which] for seed in seeds] for which in range(3))
    for made in teacher.values():
        yield Figure(f"{whom}: the teacher, right", _share(made), f"% of {made.count}")
    named = ((ALONE, alone), (OURS, ours), (f"{PEER}, {way}", peer))
    for tool, found in named:
        low, high = _interval(found)
        name = f"{whom}: {tool}, right, mean of {count} seeds, {low:.2f} to {high:.2f}"
        yield Figure(name, mean(found), "%")
    for tool, found in named[1:]:
        gains = [one - other for one, other in zip(found, alone, strict=True)]
        low, high = _interval(gains)
        goal = "an interval above 0" if judged and tool == OURS else ""
        name = f"{whom}: gained with {tool}, {low:+.2f} to {high:+.2f}"
        yield Figure(name, mean(gains), "points", goal, met=not goal or low > 0)
    apart = [one - other for one, other in zip(ours, peer, strict=True)]
    low, high = _interval(apart)
    yield Figure(f"{whom}: ours over {PEER}, {low:+.2f} to {high:+.2f}", mean(apart), "points")
    least = _interval(peer)[0]
    goal = f"at least {least:.2f}, the low end of {PEER}'s interval" if judged else ""
    name = f"{whom}: ours, right, mean"
    yield Figure(name, mean(ours), "%", goal, met=not judged or mean(ours) >= least)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean, by Student's t; of two values at least."""
    within = student_t(_CONFIDENCE, len(values) - 1) * stdev(values) / sqrt(len(values))
    return mean(values) - within, mean(values) + within


def _share(made: Made) -> float:
    return _POINTS * made.right / made.count


@dataclass(frozen=True, slots=True)
class _Maker:
    """Trains the students of a pair until a time, and keeps what came of them.

    Attributes:
        pair: of networks.
        until: of `time.monotonic`.
        kept: by tool.
    """

    pair: Pair
    until: float
    kept: Mapping[str, Kept[Made]]

    @classmethod
    def of(cls, pair: Pair, until: float) -> _Maker:
        """With what this code and machine have made already; the teacher is there afterwards."""
        here = packages.ROOT / "benchmarks"
        weights = _weights(pair)
        nets = [*_files(MODELS / pair.student), *_files(MODELS / pair.teacher)]
        both = [here / "distillation_one.py", *_code("train"), *_code("nets"), *nets]
        taught = [*both, weights]
        theirs = [here / "peers" / "torchdistill_one.py", torchdistill_packages.PINS]
        kept = {
            ALONE: Kept.under(Made, "distillation-alone", both),
            TEACHER: Kept.under(Made, "distillation-teacher", taught),
            OURS: Kept.under(Made, f"distillation-{OURS}", [*taught, *_code("compress/distill")]),
            PEER: Kept.under(Made, f"distillation-{PEER}", [*taught, *theirs]),
        }
        return cls(pair, until, kept)

    def made(self, jobs: Sequence[Job]) -> dict[Job, Made]:
        """What came of jobs, now or in an earlier run; without those that the time left out."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            made = list(pool.map(self._one, jobs))
        return {job: found for job, found in zip(jobs, made, strict=True) if found is not None}

    def best_way(self) -> str:
        """The peer's example that is best on the validation data after a third of the budget."""
        whole = self.pair.budget
        short = replace(whole, epochs=max(1, whole.epochs // 3), val="fashion-mnist:val")
        pair = replace(self.pair, budget=short)
        made = self.made([pair.job(PEER, _CHOOSING_SEED, way) for way in WAYS])
        known = {job.way: found.val_accuracy for job, found in made.items()}
        return max(known, key=lambda way: known[way], default=next(iter(WAYS)))

    def _one(self, job: Job) -> Made | None:
        kept = self.kept[job.tool]
        known = kept.load(job.key)
        if known is not None or time.monotonic() > self.until:
            return known
        made = _ask(job)
        kept.save(job.key, made)
        what = f"{job.student}, {job.tool} {job.way}, seed {job.seed}"
        print(
            f"  {what}: {_share(made):.2f} % in {made.seconds:.0f} s", file=sys.stderr, flush=True
        )
        return made


def _weights(pair: Pair) -> Path:
    """The teacher's file; trained on demand, which takes minutes once."""
    from deploykit.flow.train import with_weights
    from deploykit.load.recipe import load_recipe
    from deploykit.load.sources import Source, resolve

    folder = MODELS / pair.teacher
    path = with_weights(resolve(Source(str(folder))), load_recipe(folder)).weights
    assert path is not None  # every recipe of models/ has a place for them
    return path


def _files(folder: Path) -> list[Path]:
    """What decides a network: its code or its plan, and its recipe."""
    return [path for name in _DECIDING if (path := folder / name).is_file()]


def _code(room: str) -> list[Path]:
    return sorted((packages.ROOT / "deploykit" / room).rglob("*.py"))


def _ask(job: Job) -> Made:
    text = msgspec.json.encode(job).decode()
    try:
        told = answer("benchmarks.distillation_one", text, environment=ONE_THREAD)
    except ChildError as error:
        sys.exit(f"distillation: {job.student} with {job.tool} failed: {error}")
    return msgspec.json.decode(told, type=Made)
