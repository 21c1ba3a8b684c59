"""What separable convolutions save and cost: MACs beside measured time, and accuracy.

`deploykit compress separable` as users have it, with its defaults: fashion_resnet, whose kernels
are fitted and which is taught by what it was made of; and torchvision's ResNet-18 at 224 x 224,
without accuracy, since its weights are not at hand. Latencies are those of ONNX Runtime on one
thread, batch 1; those of a layer are of its kernels, those of a network are taken in turns.

No tool in wide use does this to a trained network: Torch-Pruning and NNCF remove channels. What
comes nearest is TensorLy, whose CP and Tucker-2 factorizations of the same layers, at no more
weights, are judged on the same images right after the conversion, as are the separable kernels that
are nearest over weights (Guo et al., "Network Decoupling", BMVC 2018).

A network that is done is kept (`kept.py`), and a training that was interrupted goes on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING

import msgspec

from benchmarks import packages
from benchmarks.in_child import ONE_THREAD, ChildError, answer
from benchmarks.kept import Kept
from benchmarks.peers import tensorly_cut
from benchmarks.result import Figure, Result
from benchmarks.separable_one import Job
from deploykit.core import records
from deploykit.flow.separable.record import SEPARABLE, LayerRow, Separable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GOAL = (
    "fashion_resnet and ResNet-18 made separable have at least 6x fewer multiply-accumulates in "
    "the layers that were split, and fashion_resnet loses at most 1 point on all 10,000 test "
    "images; the measured speed-up stands beside."
)
_LEAST_RATIO = 6.0
_MOST_LOST = 1.0  # points
_FULL_S = 38 * 60.0  # what then is not done goes on with the next run
_NETWORK = packages.ROOT / "models" / "fashion_resnet"
_WORK = packages.BENCH / "separable"
_SPLITS = ("fashion-mnist:train[::250]", "fashion-mnist:val[::50]", "fashion-mnist:test[::50]")
_VAL = "fashion-mnist:val[::5]"
_RESNET = "torchvision:resnet18"


def run(*, quick: bool) -> Result:
    """One network after the other, each in a process of its own."""
    jobs = _quick_jobs() if quick else _full_jobs()
    figures: list[Figure] = [] if quick else list(_peers())
    for name, job in jobs.items():
        if job.source == _RESNET:
            packages.install()
        made = _made(name, job, kept=not quick)
        done = made is not None
        if made is not None:
            figures += _figures(name, made, judged=job.finetune and not quick)
        figures.append(Figure(f"{name}: done", int(done), "", "1 (run again to go on)", met=done))
    return Result(tuple(figures))


def _peers() -> Iterator[Figure]:
    """What others' ways give at no more weights, right after the conversion."""
    tensorly_cut.install()
    try:
        told = answer("benchmarks.peers.tensorly_cut", _VAL, environment=ONE_THREAD)
    except ChildError as error:
        sys.exit(f"separable: TensorLy failed: {error}")
    for way, share in msgspec.json.decode(told, type=dict[str, float]).items():
        title = f"fashion_resnet: right on validation data after conversion, {way}"
        yield Figure(title, 100 * share, "%")


def _full_jobs() -> dict[str, Job]:
    """Sources lie where a training that is interrupted finds its checkpoint again."""
    return {
        "ResNet-18": Job(
            _RESNET,
            str(_WORK / "resnet18-separable"),
            inputs=("x=N[1..2]x3x224x224:float32",),
            finetune=False,
        ),
        "fashion_resnet": Job(str(_source()), str(_WORK / "fashion_resnet-separable")),
    }


def _quick_jobs() -> dict[str, Job]:
    out = str(_WORK / "quick-separable")
    one = Job(str(_source()), out, (), _SPLITS, samples=16, tuning={"epochs": 1}, measure=False)
    return {"fashion_resnet": one}


def _source() -> Path:
    """A copy of the reference network."""
    copy = _WORK / _NETWORK.name
    shutil.copytree(
        _NETWORK, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"), dirs_exist_ok=True
    )
    return copy


def _made(name: str, job: Job, *, kept: bool) -> Separable | None:
    """What came of a job, now or in an earlier run; `None` where the time did not suffice."""
    store = Kept.under(Separable, "separable", _sources())
    known = store.load(name) if kept else None
    if known is not None:
        return known
    text = msgspec.json.encode(job).decode()
    try:
        answer("benchmarks.separable_one", text, environment=ONE_THREAD, timeout_s=_FULL_S)
    except ChildError as error:
        sys.exit(f"separable: {name} failed: {error}")
    except subprocess.TimeoutExpired:
        return None
    made = records.load(packages.ROOT / job.out / "separable.json", Separable, SEPARABLE)
    if kept:
        store.save(name, made)
    return made


def _sources() -> list[Path]:
    """The files that decide what comes of a network."""
    code = packages.ROOT / "deploykit"
    rooms = ("train", "compress/separable", "compress/distill", "flow/separable")
    files = [path for room in rooms for path in sorted((code / room).rglob("*.py"))]
    own = [path for path in _NETWORK.iterdir() if path.is_file()]
    return [*files, *own, packages.ROOT / "benchmarks" / "separable_one.py"]


def _figures(name: str, made: Separable, *, judged: bool) -> Iterator[Figure]:
    split = [row for row in made.layers if row.split]
    yield Figure(f"{name}: convolutions split", len(split), f"of {len(made.layers)}")
    was, now = made.parameters_before, made.parameters_after
    yield Figure(f"{name}: parameters left", now, f"of {was}")
    for stage, rows in _stages(split).items():
        yield from _layers(f"{name}, {stage}", rows)
    ratio = _ratio(split)
    goal = f"at least {_LEAST_RATIO:g}"
    title = f"{name}: MACs in the split layers, fewer by"
    yield Figure(title, ratio, "x", goal, met=ratio >= _LEAST_RATIO)
    whole = sum(row.macs_before for row in made.layers) / sum(row.macs_after for row in made.layers)
    yield Figure(f"{name}: MACs of all convolutions, fewer by", whole, "x")
    yield from _speed(name, made)
    yield from _accuracy(name, made, judged=judged)


def _layers(name: str, rows: Sequence[LayerRow]) -> Iterator[Figure]:
    """Layers of one stage together."""
    weights = sum(row.weights_before for row in rows), sum(row.weights_after for row in rows)
    yield Figure(f"{name}: weights of {len(rows)} layers", weights[1], f"of {weights[0]}")
    yield Figure(f"{name}: MACs, fewer by", _ratio(rows), "x")
    known = [(row.latency_before_ns, row.latency_after_ns) for row in rows]
    timed = [(a, b) for a, b in known if a is not None and b is not None]
    if timed:
        before, after = (sum(pair[side] for pair in timed) for side in (0, 1))
        yield Figure(f"{name}: their kernels, measured faster by", before / after, "x")
        yield Figure(f"{name}: their kernels, measured", after / 1e3, f"us, {before / 1e3:.4g} us")


def _speed(name: str, made: Separable) -> Iterator[Figure]:
    speed = made.speed
    if speed is None:
        return
    yield Figure(f"{name}: latency before", speed.before_ns / 1e6, "ms")
    yield Figure(f"{name}: latency after", speed.after_ns / 1e6, "ms")
    yield Figure(f"{name}: the whole, measured faster by", 1 / speed.share, "x")
    if speed.low is not None and speed.high is not None:
        half = (1 / speed.low - 1 / speed.high) / 2
        yield Figure(f"{name}: half of that figure's 95 % interval", half, "x")


def _accuracy(name: str, made: Separable, *, judged: bool) -> Iterator[Figure]:
    """On the test images; right after the fit, on the validation data that the flow judges by."""
    found = {check.name.partition(":")[0]: check.value for check in made.checks}
    errors = [(row.error_nearest, row.error_fitted) for row in made.layers]
    off = [(a, b) for a, b in errors if a is not None and b is not None]
    if off:
        title = f"{name}: of a layer's output missed, mean"
        yield Figure(f"{title}, kernels nearest over weights", 100 * fmean(a for a, _ in off), "%")
        yield Figure(f"{title}, fitted", 100 * fmean(b for _, b in off), "%")
    if made.val_split is not None:
        title = f"{name}: right on validation data after the fit, before training"
        yield Figure(title, 100 * made.val_split, "%")
    for when in ("before", "after"):
        value = found.get(f"top-1 {when} eval")
        if value is not None:
            yield Figure(f"{name}: right on test images {when}", value, "%")
    lost = found.get("top-1 lost eval")
    if lost is not None:
        goal = f"at most {_MOST_LOST:g}" if judged else ""
        met = not judged or lost <= _MOST_LOST
        yield Figure(f"{name}: points lost", lost, "", goal, met=met)
        yield Figure(f"{name}: training", made.seconds, f"s, {made.epochs} epochs")


def _stages(rows: Sequence[LayerRow]) -> dict[str, list[LayerRow]]:
    """By the part of the network that they are in."""
    found: dict[str, list[LayerRow]] = defaultdict(list)
    for row in rows:
        first, _, rest = row.name.partition(".")
        found[f"{first}.{rest.partition('.')[0]}" if first == "stages" else first].append(row)
    return found


def _ratio(rows: Sequence[LayerRow]) -> float:
    return sum(row.macs_before for row in rows) / max(sum(row.macs_after for row in rows), 1)
