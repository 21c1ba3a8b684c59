"""What exits save: fashion_multi_exit beside fashion_resnet, as exported, on the real test set.

Plain network, stages and one graph with `If` answer every call in turns in one process, on ONNX
Runtime with one thread. Thresholds are those that the model was shipped with: solved on validation
data, so that the test images had no part in them. What splitting alone costs is taken beside: the
same stages without heads, so that nobody leaves. Where samples left is counted a second time, from
the graph that answers at all exits.

No tool in wide use exports such a network; research code runs it in PyTorch, at batch 1 and without
compaction, so that there is no peer to run beside.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks import packages
from benchmarks.in_child import ONE_THREAD, ChildError, answer
from benchmarks.multi_exit_one import ONE, SPLIT, STAGES, WHOLE, Job, Told
from benchmarks.result import Figure, Result
from deploykit.flow.export import ExportRequest, run_export
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

GOAL = (
    "fashion_multi_exit loses at most 0.5 points against fashion_resnet and against its own end "
    "on the test images; mean latency at batch 1 is 1.9x lower as stages and 1.5x as one graph, "
    "at batch 32 1.5x; where nobody leaves, stages without heads take at most 10 % more than the "
    "plain network below 2 ms, and 3 % from there on."
)
_LEAST = {(1, STAGES): 1.9, (1, ONE): 1.5, (32, STAGES): 1.5}
_MOST_LOST = 0.5  # points
_SHORT_NS, _MOST_SPLIT_SHORT, _MOST_SPLIT = 2e6, 0.10, 0.03
_DATA = "fashion-mnist:test"
_QUICK_DATA = "fashion-mnist:test[:640]"


def run(*, quick: bool) -> Result:
    """Export both networks, then measure at both batch sizes."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        folder = Path(scratch)
        for name in ("fashion_resnet", "fashion_multi_exit"):
            # No data: parity runs on made-up inputs, and nothing is judged twice.
            source = Source(str(packages.ROOT / "models" / name))
            run_export(ExportRequest(source, folder / name, val=_QUICK_DATA, eval=_QUICK_DATA))
        for batch in (1, 32):
            data = _QUICK_DATA if quick else _DATA
            exits = folder / "fashion_multi_exit"
            job = Job(str(folder / "fashion_resnet"), str(exits), data, batch)
            text = msgspec.json.encode(job).decode()
            try:
                said = answer("benchmarks.multi_exit_one", text, environment=ONE_THREAD)
            except ChildError as error:
                sys.exit(f"multi_exit: batch {batch} failed: {error}")
            told = msgspec.json.decode(said, type=Told)
            figures += figures_of(told, batch, judged=not quick)
    return Result(tuple(figures))


def figures_of(told: Told, batch: int, *, judged: bool) -> Iterator[Figure]:
    """What is said of one batch size; accuracy is held against goals on all of the data only."""
    whole = told.ns[WHOLE]
    yield Figure(f"batch {batch}: fashion_resnet, mean", whole / 1e6, "ms")
    for way in (STAGES, ONE):
        faster, least = whole / told.ns[way], _LEAST.get((batch, way))
        goal = "" if least is None else f"at least {least:g}"
        met = least is None or faster >= least
        yield Figure(f"batch {batch}: {way}, faster by", faster, "x", goal, met=met)
    more = told.ns[SPLIT] / whole - 1
    most = _MOST_SPLIT_SHORT if whole < _SHORT_NS else _MOST_SPLIT
    title = f"batch {batch}: split without heads, nobody leaves, more by"
    yield Figure(title, 100 * more, "%", f"at most {100 * most:g}", met=more <= most)
    for number, count in enumerate(told.exits):
        yield Figure(f"batch {batch}: leave at exit {number + 1}", 100 * count / told.samples, "%")
    for title, count in (
        ("stages, left elsewhere than counted from all exits", told.elsewhere),
        ("one graph, left elsewhere than in stages", told.differs),
    ):
        most_odd = told.samples // 1000  # on the edge of a threshold another kernel's rounding
        goal = f"at most {most_odd}"
        yield Figure(f"batch {batch}: {title}", count, "", goal, met=count <= most_odd)
    right = {name: 100 * count / told.samples for name, count in told.right.items()}
    for name, share in right.items():
        yield Figure(f"batch {batch}: right, {name}", share, f"% of {told.samples}")
    for name in (WHOLE, "own end"):
        lost = right[name] - right[STAGES]
        goal = f"at most {_MOST_LOST:g}" if judged and batch == 1 else ""
        met = not goal or lost <= _MOST_LOST
        yield Figure(f"batch {batch}: below {name}", lost, "points", goal, met=met)
