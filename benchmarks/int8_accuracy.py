"""What INT8 costs in accuracy, beside ONNX Runtime's own quantizer and NNCF on the same images.

All take the same float ONNX file and the same calibration images, three draws of them. A peer may
choose its way: each is tried with the first draw, and the one that is best on the validation data
is taken. Ours runs at its defaults. Results are kept one by one (`kept.py`), so that an interrupted
run goes on.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import msgspec

from benchmarks import int8_float, packages
from benchmarks.int8_one import FLOAT, NNCF, ORT, OURS, Job, Made, ask
from benchmarks.kept import Kept
from benchmarks.peers import int8_nncf, int8_ort, int8_packages
from benchmarks.result import Figure, Result
from deploykit.check.intervals import wilson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

GOAL = (
    "INT8 costs fashion_resnet at most 0.15 points on the full test set and fashion_separable at "
    "most 0.5, means over three draws of calibration images; one scale a tensor with equalisation "
    "is within 0.8 points of one a channel; and no draw is below the interval of ONNX Runtime's "
    "quantizer or of NNCF."
)
_MOST_LOST = {"fashion_resnet": 0.15, "fashion_separable": 0.5}  # points
_MOST_BEHIND = 0.8
"""Points that one scale a tensor, with equalisation, may lose more than one a channel."""
_PER_TENSOR = {"per_channel": False}
_EQUALISED = {"per_channel": False, "equalise": True}
_IMAGES, _STEP = 512, 107  # of a draw: they run over all of the training data
_DRAWS = tuple(
    f"fashion-mnist:train[{first}:{first + _IMAGES * _STEP}:{_STEP}]" for first in (0, 36, 72)
)
_JUDGE = ("fashion-mnist:val", "fashion-mnist:test")
_QUICK_DRAWS = ("fashion-mnist:train[:54400:850]",)
_QUICK_JUDGE = ("fashion-mnist:val[::50]", "fashion-mnist:test[::10]")
_VAL, _TEST = 0, 1
_WAYS = {
    ORT: tuple(int8_ort.WAYS),
    NNCF: tuple(way for way in int8_nncf.WAYS if not int8_nncf.WAYS[way].transformer),
}
_FULL_S = 38 * 60.0  # what then is not reached is asked by the next run
_AT_ONCE = 2
_POINTS = 100.0


def run(*, quick: bool) -> Result:
    """Two quantizations at a time, each in a process of its own on one thread."""
    int8_packages.install()
    figures: list[Figure] = []
    missing = 0
    until = time.monotonic() + _FULL_S
    with tempfile.TemporaryDirectory() as folder:
        for name in list(_MOST_LOST)[: 1 if quick else None]:
            model = int8_float.export(name, Path(folder) / name)
            one = _Network(name, model, until, quick=quick)
            found = one.everything()
            figures += _figures(name, found, judged=not quick)
            missing += one.wanted - sum(map(len, found.values()))
    what = "quantizations not reached in the time, run again to go on"
    figures.append(Figure(what, missing, "", "0", met=missing == 0))
    return Result(tuple(figures))


@dataclass(frozen=True, slots=True)
class _Row:
    """One tool, or one way to set ours, over all draws."""

    tool: str
    way: str = ""


_FLOAT, _OURS, _TENSOR, _EQUAL = (
    _Row(FLOAT),
    _Row(OURS),
    _Row(OURS, "one scale a tensor"),
    _Row(OURS, "one scale a tensor, equalised"),
)
_CHANGES: Mapping[_Row, Mapping[str, bool]] = {_TENSOR: _PER_TENSOR, _EQUAL: _EQUALISED}


@dataclass(slots=True)
class _Network:
    """One network, quantized by everyone.

    Attributes:
        name: of the network.
        model: its float ONNX file.
        until: of `time.monotonic`.
        quick: a single small draw, one way of each peer.
        wanted: quantizations and judgements that belong to it.
    """

    name: str
    model: Path
    until: float
    quick: bool
    wanted: int = 0

    def everything(self) -> dict[_Row, list[Made]]:
        """What came of each tool, draw by draw; without what the time left out."""
        draws = _QUICK_DRAWS if self.quick else _DRAWS
        rows = [_OURS, *([] if self.quick else (_TENSOR, _EQUAL)), *map(self._best, (ORT, NNCF))]
        asked = [(_FLOAT, draws[0]), *((row, draw) for row in rows for draw in draws)]
        self.wanted = len(asked)
        found: dict[_Row, list[Made]] = {row: [] for row, _ in asked}
        for (row, _), made in zip(asked, self._all(asked), strict=True):
            if made is not None:
                found[row].append(made)
        return found

    def _best(self, peer: str) -> _Row:
        """The peer's way that is best on the validation data."""
        if self.quick:
            return _Row(peer, _WAYS[peer][0])
        rows = [_Row(peer, way) for way in _WAYS[peer]]
        made = self._all([(row, _DRAWS[0]) for row in rows])
        known = {r: m.count_right(_VAL) for r, m in zip(rows, made, strict=True) if m and not m.why}
        return max(known, key=lambda row: known[row], default=rows[0])

    def _all(self, asked: Sequence[tuple[_Row, str]]) -> list[Made | None]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda one: self._one(*one), asked))

    def _one(self, row: _Row, draw: str) -> Made | None:
        job = Job(
            row.tool,
            str(self.model),
            draw,
            way="" if row.tool == OURS else row.way,
            changes=dict(_CHANGES.get(row, {})),
            judge=_QUICK_JUDGE if self.quick else _JUDGE,
        )
        kept = _kept(self.name, row.tool)
        key = hashlib.sha256(msgspec.json.encode(replace(job, model=""))).hexdigest()[:16]
        known = kept.load(key)
        if known is not None or time.monotonic() > self.until:
            return known
        made = ask(job)
        if not made.why:
            kept.save(key, made)
        said = made.why or f"{made.share(_TEST):.2f} % of the test images, {made.seconds:.0f} s"
        what = f"{self.name}, {row.tool} {row.way}".rstrip()
        print(f"  {what}: {said}", file=sys.stderr, flush=True)
        return made


def _kept(network: str, tool: str) -> Kept[Made]:
    """What this code made of these weights."""
    benchmarks, code = packages.ROOT / "benchmarks", packages.ROOT / "deploykit"
    sources = [path for path in (packages.ROOT / "models" / network).iterdir() if path.is_file()]
    sources += [benchmarks / "int8_one.py", *(code / "export").glob("*.py")]
    if tool == OURS:
        sources += [*(code / "quantize").rglob("*.py"), *(code / "flow").glob("quantize*.py")]
    elif tool != FLOAT:
        sources += [*(benchmarks / "peers").glob("int8*")]
    return Kept.under(Made, f"int8-{tool.replace(' ', '-')}", sources)


def _figures(name: str, found: Mapping[_Row, Sequence[Made]], *, judged: bool) -> Iterator[Figure]:
    if not found[_FLOAT] or not found[_OURS]:
        return
    failed = next((made.why for row in (_FLOAT, _OURS) for made in found[row] if made.why), "")
    if failed:
        sys.exit(f"int8_accuracy: {name}: {failed}")
    (parent,), ours = found[_FLOAT], found[_OURS]
    count = len(parent.right[_TEST])
    yield Figure(f"{name}: float, right", parent.share(_TEST), f"% of {count}")
    yield Figure(f"{name}: INT8, right, mean of {len(ours)}", _mean(ours), "%")
    lost, most = parent.share(_TEST) - _mean(ours), _MOST_LOST[name]
    goal = f"at most {most:g}" if judged else ""
    yield Figure(f"{name}: points lost", lost, "", goal, met=not judged or lost <= most)
    for row in found:
        if row.tool in (ORT, NNCF):
            made = (parent, ours, found[row])
            yield from _beside(f"{name}: {row.tool}", row.way, *made, judged=judged)
    yield from _tensors(name, parent, ours, found)


def _beside(
    name: str,
    way: str,
    parent: Made,
    ours: Sequence[Made],
    peer: Sequence[Made],
    *,
    judged: bool,
) -> Iterator[Figure]:
    """Ours beside one peer's best way."""
    failed = next((made.why for made in peer if made.why), "")
    if failed or not peer:
        if failed:
            yield Figure(f"{name} ({way}) failed: {failed}", 0, "")
        return
    yield Figure(f"{name} ({way}): points lost", parent.share(_TEST) - _mean(peer), "")
    count = len(parent.right[_TEST])
    # Wilson's interval of the peer's mean accuracy on one pass over the test set.
    low = _POINTS * wilson(round(mean(made.count_right(_TEST) for made in peer)), count)[0]
    worst = min(made.share(_TEST) for made in ours)
    goal = f"at least {low:.2f}, the low end of its interval" if judged else ""
    yield Figure(f"{name}: our worst draw, right", worst, "%", goal, met=not judged or worst >= low)
    only_we, only_it = _only(ours[0], peer[0]), _only(peer[0], ours[0])
    unit = f"images, = {only_we} - {only_it}; McNemar's p {mcnemar(only_we, only_it):.2g}"
    yield Figure(
        f"{name}: first draw, right only with us less only with it", only_we - only_it, unit
    )


def _tensors(
    name: str, parent: Made, ours: Sequence[Made], found: Mapping[_Row, Sequence[Made]]
) -> Iterator[Figure]:
    """One scale a tensor, as it is and equalised."""
    for row in (_TENSOR, _EQUAL):
        made = found.get(row, ())
        if not made:
            continue
        if failed := next((one.why for one in made if one.why), ""):
            yield Figure(f"{name}: {row.way} failed: {failed}", 1, "", "0", met=False)
            continue
        yield Figure(f"{name}: {row.way}: points lost", parent.share(_TEST) - _mean(made), "")
        if row == _EQUAL:
            behind = _mean(ours) - _mean(made)
            met = behind <= _MOST_BEHIND
            what = f"{name}: {row.way}: points behind one a channel"
            yield Figure(what, behind, "", f"at most {_MOST_BEHIND:g}", met=met)


def _mean(made: Sequence[Made]) -> float:
    return mean(one.share(_TEST) for one in made)


def _only(first: Made, second: Made) -> int:
    """Test images that only the first has right."""
    return sum(a > b for a, b in zip(first.right[_TEST], second.right[_TEST], strict=True))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that both are as good (McNemar 1947; binomial with one half)."""
    differ, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(comb(differ, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**differ))
