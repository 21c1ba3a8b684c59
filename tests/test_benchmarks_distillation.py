"""The benchmark of distillation: what it judges, and both tools on a few images."""

from __future__ import annotations

import pytest

from benchmarks import distillation
from benchmarks.distillation import Pair
from benchmarks.distillation_one import ALONE, OURS, PEER, TEACHER, Budget, Made, make
from benchmarks.peers import torchdistill_packages
from benchmarks.peers.torchdistill_one import WAYS

TINY = Budget(1, "fashion-mnist:train[:256]", "fashion-mnist:val[:50]", "fashion-mnist:test[:50]")
PAIR = Pair("student", "fashion_resnet", TINY)
TAUGHT = {PAIR.job(TEACHER, 0): Made(940, 1000, 0.0, 0.0)}
WAY = next(iter(WAYS))


def _met(*seeds: tuple[float, float, float]) -> dict[str, bool]:
    figures = distillation._figures(PAIR, WAY, TAUGHT, seeds, judged=True)
    return {figure.name.split(", ")[0].split(": ")[1]: figure.met for figure in figures}


def test_the_interval_is_students_over_the_seeds() -> None:
    low, high = distillation._interval([0.1, 0.2, 0.3, 0.4, 0.5])

    # t of 4 degrees of freedom is 2.776 (Fisher and Yates, table III); s is 0.1581
    assert (low + high) / 2 == pytest.approx(0.3)
    assert (high - low) / 2 == pytest.approx(2.776 * 0.15811 / 5**0.5, rel=1e-3)


def test_gains_are_taken_seed_by_seed() -> None:
    # The seeds differ by more than what is gained, and each gains.
    assert _met((80.0, 81.0, 81.0), (85.0, 86.1, 86.0), (90.0, 90.9, 91.0))[f"gained with {OURS}"]
    assert not _met((80.0, 81.0, 81.0), (81.0, 80.0, 81.0), (82.0, 82.1, 82.0))[
        f"gained with {OURS}"
    ]


def test_below_the_peers_interval_is_short() -> None:
    even = _met((80.0, 81.0, 81.1), (80.1, 81.1, 81.2), (80.2, 81.2, 81.1))
    behind = _met((80.0, 81.0, 83.1), (80.1, 81.1, 83.2), (80.2, 81.2, 83.1))

    assert even["ours"]
    assert not behind["ours"]
    assert behind[f"gained with {OURS}"]


def test_jobs_have_names_of_their_own() -> None:
    ways = [PAIR.job(PEER, 0, way).key for way in WAYS]
    keys = [*ways, PAIR.job(ALONE, 0).key, PAIR.job(ALONE, 1).key, PAIR.job(OURS, 0).key]

    assert len(set(keys)) == len(keys)


@pytest.mark.slow
@pytest.mark.parametrize("tool", [ALONE, OURS, PEER])
def test_each_tool_trains_the_same_student_again(tool: str) -> None:
    if tool == PEER and not torchdistill_packages.ready():
        pytest.skip("torchdistill is not in .bench")
    job = PAIR.job(tool, 3, WAY if tool == PEER else "")

    first, second = make(job), make(job)

    assert first.count == 50
    assert (first.right, first.val_accuracy) == (second.right, second.val_accuracy)
    assert first.right > 5  # of ten classes: more than by chance
