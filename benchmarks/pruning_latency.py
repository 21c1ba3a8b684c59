"""Whether a latency that was asked for is kept, and whether alignment ever makes a network slower.

No training: how long a network takes does not depend on what it has learnt.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.result import Figure, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploykit.flow.side_by_side import SideBySide

GOAL = (
    "Asked for 0.7x, 0.5x and 0.35x of fashion_resnet's latency on ONNX Runtime CPU, the measured "
    "share is no more, and less by 10 % at most; no aligned network is slower than its unaligned "
    "twin of as many multiply-accumulates."
)
_MODEL = Path(__file__).parents[1] / "models" / "fashion_resnet"
_SHARES = (0.7, 0.5, 0.35)
_UNDERSHOT = 0.9
_NOISE = 1.01  # what two measurements of one network differ by here
_THREADS = 1


def run(*, quick: bool) -> Result:
    """Each aim from a fresh copy of the model, so that nothing is decided already."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "fashion_resnet"
        shutil.copytree(_MODEL, model, ignore=shutil.ignore_patterns(".*"))
        for share in _SHARES[: 1 if quick else None]:
            figures += _aim(model, share)
        for ratio in () if quick else (0.3, 0.5, 0.65):
            figures.append(_twins(model, ratio))
    return Result(tuple(figures))


def _aim(model: Path, share: float) -> Iterator[Figure]:
    folder = _pruned(model, f"latency-{share}", latency=f"{share}x")
    found = _measured(_artifact(model), _artifact(folder))
    met = _UNDERSHOT * share <= found.share <= share
    goal = f"{_UNDERSHOT * share:.3g} to {share:g}"
    yield Figure(f"asked for {share:g}x: measured", found.share, "x", goal, met=met)
    low, high = found.low, found.high
    if low is not None and high is not None:
        yield Figure(f"asked for {share:g}x: half of the 95 % interval", (high - low) / 2, "x")


def _twins(model: Path, ratio: float) -> Figure:
    """The aligned network beside one with any number of channels."""
    aligned = _pruned(model, f"aligned-{ratio}", ratio=ratio)
    # Unmeasured, since one that is slower than what it was made of would be refused.
    plain = _pruned(model, f"plain-{ratio}", measure=False, ratio=ratio, align="1")
    found = _measured(_artifact(plain), _artifact(aligned))
    return Figure(
        f"{ratio:.0%} of the MACs gone: aligned by unaligned",
        found.share,
        "x",
        f"at most {_NOISE:g}",
        met=found.share <= _NOISE,
    )


def _pruned(
    model: Path, name: str, latency: str = "", *, measure: bool = True, **changes: float | str
) -> Path:
    from deploykit.flow.prune.prune import run_prune
    from deploykit.flow.prune.request import PruneRequest
    from deploykit.load.sources import Source

    out = model.parent / name
    run_prune(
        PruneRequest(
            Source(str(model)),
            out,
            changes=changes,
            latency=latency,
            finetune=False,
            val="fashion-mnist:val[:64]",
            eval="fashion-mnist:val[:64]",
            measure=measure,
            batch=1 if measure else None,
            threads=_THREADS if measure else None,
        )
    )
    return out


def _artifact(source: Path) -> Path:
    """The exported network beside its source."""
    from deploykit.export.options import ExportOptions
    from deploykit.export.torch_to_onnx import export_model
    from deploykit.flow.rebuild import load_model
    from deploykit.load.sources import Source

    folder = source.with_name(f"{source.name}-onnx")
    if not folder.is_dir():
        folder.mkdir()
        export_model(load_model(Source(str(source))), folder, ExportOptions())
    return folder


def _measured(whole: Path, part: Path) -> SideBySide:
    from deploykit.core.progress import silent
    from deploykit.flow.prune.latency import Bench

    bench = Bench(whole.parent, whole.parent, 1, _THREADS, silent)
    return bench.compare(whole, part, careful=True)
