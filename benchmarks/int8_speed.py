"""How much faster INT8 is than float, beside ONNX Runtime's own quantizer and NNCF.

All take the same float ONNX file and calibration images, and all results run in the same sessions
of ONNX Runtime CPU: one thread, batch 1, in turns within each process (`turns.py`).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import int8_float, packages
from benchmarks.int8_one import NNCF, ORT, OURS, Job, ask
from benchmarks.peers import int8_packages
from benchmarks.result import Figure, Result
from benchmarks.turns import has_vnni, in_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.turns import Times

GOAL = (
    "INT8 of ResNet-50 is at least 3x as fast as float on one thread where the machine has VNNI or "
    "AMX, and of ResNet-50, MobileNetV2 and V3, EfficientNet-B0, DeiT-tiny and fashion_resnet none "
    "is slower than the fastest of ONNX Runtime's quantizer and NNCF by more than the interval."
)
_LEAST = {"resnet50": 3.0}
_FASHION = "fashion_resnet"
_NETWORKS = (*int8_float.ZOO, _FASHION)
_TRANSFORMERS = ("deit_tiny_patch16_224",)
_IMAGES = 32  # for calibration: more change ranges, not times
_SEED = 0
_PROCESSES, _ROUNDS = 7, 12
_QUICK_PROCESSES, _QUICK_ROUNDS = 2, 8


def run(*, quick: bool) -> Result:
    """Network by network: quantize by everyone, then measure in turns."""
    packages.install()
    int8_packages.install()
    figures: list[Figure] = []
    for name in [_FASHION] if quick else _NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            figures += _network(name, Path(folder), quick=quick)
    return Result(tuple(figures))


def _network(name: str, folder: Path, *, quick: bool) -> Iterator[Figure]:
    model = int8_float.export(name, folder / "float")
    calibrate = _calibration(name, folder)
    artifacts = {"float": model}
    for job in _jobs(name, model, calibrate, folder, quick=quick):
        made = ask(job)
        label = f"{job.tool} ({job.way})" if job.way else job.tool
        print(
            f"  {name}, {label}: {made.why or f'{made.seconds:.0f} s'}", file=sys.stderr, flush=True
        )
        if not made.why:
            artifacts[label] = Path(job.out)
        elif job.tool == OURS:
            sys.exit(f"int8_speed: {name}: {made.why}")
        else:
            yield Figure(f"{name}: {label} failed: {made.why}", 0, "")
    times = in_turns(
        list(artifacts.values()),
        processes=_QUICK_PROCESSES if quick else _PROCESSES,
        rounds=_QUICK_ROUNDS if quick else _ROUNDS,
    )
    yield from _figures(name, list(artifacts), times, judged=not quick)


def _jobs(name: str, model: Path, calibrate: str, folder: Path, *, quick: bool) -> Iterator[Job]:
    """Ours at its defaults; each peer in the ways that its documentation has for speed."""
    yield Job(OURS, str(model), calibrate, str(folder / "ours"), measure=not quick)
    ways = [(ORT, "min-max"), (ORT, "min-max, int8"), (NNCF, "performance"), (NNCF, "mixed")]
    if name in _TRANSFORMERS:
        ways.append((NNCF, "transformer"))
    for number, (tool, way) in enumerate(ways[:3:2] if quick else ways):
        out = folder / f"peer-{number}.onnx"
        yield Job(tool, str(model), calibrate, str(out), way=way)


def _calibration(name: str, folder: Path) -> str:
    """Images for the reference network; noise for those whose weights are drawn."""
    if name not in int8_float.ZOO:
        return f"fashion-mnist:train[:{_IMAGES}]"
    import numpy as np

    images = np.random.default_rng(_SEED).standard_normal((_IMAGES, 3, 224, 224), np.float32)
    np.savez(folder / "images.npz", x=images)
    return str(folder / "images.npz")


def _figures(name: str, labels: list[str], times: Times, *, judged: bool) -> Iterator[Figure]:
    for which, label in enumerate(labels):
        yield Figure(f"{name}: {label}", times.median_ns(which) / 1e6, "ms")
    least = _LEAST.get(name) if judged and has_vnni() else None
    for which, label in enumerate(labels[1:], 1):
        faster = times.compared(0, which)
        mine = label == OURS and least is not None
        yield Figure(
            f"{name}: {label} over float, {faster.low:.3f} to {faster.high:.3f}",
            faster.value,
            "x",
            f"at least {least:g}" if mine else "",
            met=not mine or faster.value >= (least or 0.0),
        )
    peers = [which for which, label in enumerate(labels) if label not in ("float", OURS)]
    if not peers:
        return
    fastest = min(peers, key=times.median_ns)
    ours = times.compared(fastest, labels.index(OURS))
    yield Figure(
        f"{name}: ours over the fastest peer, {labels[fastest]}, {ours.low:.3f} to {ours.high:.3f}",
        ours.value,
        "x",
        "1 within the interval, or more" if judged else "",
        met=not judged or ours.high >= 1,
    )
