"""Pruned, fine-tuned and quantized: our chain beside the best one made by hand of the peers' tools.

The peers' chain is what an expert would try: Torch-Pruning to several shares of the MACs, with and
without channels rounded for the hardware, the same fine-tuning, then ONNX Runtime's quantizer and
NNCF; of all that, what is fastest and keeps the accuracy on the test set itself, which is more than
an expert could know. Ours aims at shares of the measured INT8 latency and is chosen on the
validation data. Networks and judgements are kept one by one, so that an interrupted run goes on.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import chain_one, int8_float, int8_one, packages
from benchmarks.chain_one import Job, Trained
from benchmarks.fine_tuned import NETWORK, OURS, PEER, Budget
from benchmarks.int8_one import FLOAT, NNCF, ORT, Made
from benchmarks.kept import Kept
from benchmarks.peers import int8_packages
from benchmarks.result import Figure, Result
from benchmarks.turns import in_turns
from deploykit.bench.machine import machine_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.turns import Times

GOAL = (
    "fashion_resnet pruned, fine-tuned and quantized loses at most 0.5 points on the full test "
    "set; with VNNI, on one thread at batch 1, it is then at least 1.3x as fast as the best such "
    "chain of Torch-Pruning and ONNX Runtime's quantizer or NNCF, and 5.6x as fast as float."
)
_MOST_LOST = 0.5  # points
_LEAST_OVER_PEERS, _LEAST_OVER_FLOAT = 1.3, 5.6
_OUR_SHARES = (0.56, 0.5, 0.44)  # of the INT8 latency
_PEER_SHARES = (0.5, 0.4, 0.3, 0.25)  # of the MACs
_ROUND_TO = (1, 8)
_FULL = Budget(epochs=3)
_QUICK = Budget(
    1, "fashion-mnist:train[::200]", "fashion-mnist:val[::50]", "fashion-mnist:test[::10]"
)
_CALIBRATE, _QUICK_CALIBRATE = "fashion-mnist:train[:54784:107]", "fashion-mnist:train[:32]"
_WAYS = ((ORT, "min-max"), (ORT, "min-max, int8"), (NNCF, "performance"), (NNCF, "mixed"))
_PROCESSES, _ROUNDS = 7, 10
_QUICK_PROCESSES, _QUICK_ROUNDS = 2, 5
_FULL_S = 36 * 60.0  # what then is not reached is asked by the next run
_AT_ONCE = 2
_VAL, _TEST = 0, 1
_POINTS = 100.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A chain that has run: an INT8 file, and what it keeps.

    Attributes:
        label: as people read it.
        ours: whose it is.
        artifact: the file or folder.
        made: its judgements.
    """

    label: str
    ours: bool
    artifact: Path
    made: Made


def run(*, quick: bool) -> Result:
    """Choose, train, quantize and judge what is not kept already; then measure all in turns."""
    packages.install()
    int8_packages.install()
    chains = _Chains.of_here(quick=quick)
    parent = chains.parent()
    jobs = chains.jobs()
    chains.choose([job for job in jobs if job.tool == OURS])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        networks = list(pool.map(chains.network, jobs))
        wanted = [
            (job, tool, way)
            for job, made in zip(jobs, networks, strict=True)
            if made is not None
            for tool, way in (((OURS, ""),) if job.tool == OURS else chains.ways)
        ]
        entries = [one for one in pool.map(lambda x: chains.entry(*x), wanted) if one is not None]
    figures = list(_figures(chains, parent, entries))
    missing = len(jobs) - sum(made is not None for made in networks)
    missing += len(wanted) - len(entries)
    name = "trainings and quantizations not reached in the time, run again to go on"
    figures.append(Figure(name, missing, "", "0", met=missing == 0))
    return Result(tuple(figures))


@dataclass(frozen=True, slots=True)
class _Chains:
    """Makes chains until a time, and keeps what came of them.

    Attributes:
        quick: a look at the machinery, no more.
        until: of `time.monotonic`.
        trained: by tool.
        judged: what came of INT8 files, by tool.
    """

    quick: bool
    until: float
    trained: dict[str, Kept[Trained]]
    judged: dict[str, Kept[Made]]

    @classmethod
    def of_here(cls, *, quick: bool) -> _Chains:
        """With what this code and machine have made already."""
        here, code = packages.ROOT / "benchmarks", packages.ROOT / "deploykit"
        network = [path for path in NETWORK.iterdir() if path.is_file()]
        both = [here / "chain_one.py", *network, *(code / "train").glob("*.py")]
        ours = [here / "chain_ours.py", *(code / "compress").rglob("*.py")]
        theirs = [here / "peers" / "torch_pruning_rounded.py", packages.REQUIREMENTS]
        mine = (code / "quantize").rglob("*.py")
        judge = [here / "int8_one.py", *(here / "peers").glob("int8*")]
        trained = {
            OURS: Kept.under(Trained, f"chain-{OURS}", [*both, *ours]),
            PEER: Kept.under(Trained, f"chain-{PEER}", [*both, *theirs]),
        }
        judged = {
            OURS: Kept.under(Made, f"chain-int8-{OURS}", [*both, *ours, *judge, *mine]),
            PEER: Kept.under(Made, f"chain-int8-{PEER}", [*both, *theirs, *judge]),
        }
        return cls(quick, time.monotonic() + _FULL_S, trained, judged)

    @property
    def budget(self) -> Budget:
        """Of every fine-tuning."""
        return _QUICK if self.quick else _FULL

    @property
    def ways(self) -> Sequence[tuple[str, str]]:
        """How the peers quantize."""
        return _WAYS[::2] if self.quick else _WAYS

    def jobs(self) -> list[Job]:
        """All networks, the most promising first."""
        if self.quick:
            return [Job(OURS, 0.5, 1, _QUICK, measured=False), Job(PEER, 0.5, 1, _QUICK)]
        ours = [Job(OURS, share, 1, _FULL) for share in _OUR_SHARES]
        peer = [Job(PEER, share, step, _FULL) for share in _PEER_SHARES for step in _ROUND_TO]
        return [*ours, *peer]

    def folder(self, job: Job) -> Path:
        """Where a network and all that is made of it stay."""
        return self.trained[job.tool].folder / job.key

    def parent(self) -> Made:
        """The network as it is, in float, judged; `MODEL` lies in `parent_folder`."""
        folder = self.parent_folder
        if not (folder / chain_one.MODEL).is_file():
            int8_float.export(NETWORK.name, folder)
        job = int8_one.Job(FLOAT, str(folder / chain_one.MODEL), "", judge=self._judge)
        return self._judged(PEER, f"float-{self.quick}", job)

    @property
    def parent_folder(self) -> Path:
        """Of the float network as it is."""
        return self.trained[PEER].folder / "float"

    @property
    def _judge(self) -> tuple[str, str]:
        return (self.budget.val, self.budget.test)

    def choose(self, jobs: Sequence[Job]) -> None:
        """Decide channel counts one after the other: latencies are best taken alone."""
        for job in jobs:
            if job.measured and self.trained[OURS].load(job.key) is None and not self._is_late:
                chain_one.ask(job, self.folder(job), decide_only=True)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self.until

    def network(self, job: Job) -> Trained | None:
        """A network pruned and fine-tuned, now or in an earlier run."""
        kept = self.trained[job.tool]
        known = kept.load(job.key)
        if (known is not None and (self.folder(job) / chain_one.MODEL).is_file()) or self._is_late:
            return known
        made = chain_one.ask(job, self.folder(job))
        kept.save(job.key, made)
        _say(f"{_label(job)}: {_POINTS * made.val_accuracy:.2f} % of val, {made.train_s:.0f} s")
        return made

    def entry(self, job: Job, tool: str, way: str) -> Entry | None:
        """An INT8 file of it, judged, now or in an earlier run; `None` where the tool failed."""
        name = "-".join(f"int8 {tool} {way}".replace(",", "").split())
        out = self.folder(job) / (name if tool == OURS else f"{name}.onnx")
        model = str(self.folder(job) / chain_one.MODEL)
        calibrate = _QUICK_CALIBRATE if self.quick else _CALIBRATE
        asked = int8_one.Job(tool, model, calibrate, str(out), way=way, judge=self._judge)
        label = f"{_label(job)}, {tool} {way}".rstrip()
        if self._is_late and not out.exists():
            return None
        made = self._judged(job.tool, f"{job.key}-{out.stem}", asked, again=not out.exists())
        if made.why:
            _say(f"{label} failed: {made.why}")
            return None
        return Entry(label, job.tool == OURS, out, made)

    def _judged(self, tool: str, key: str, job: int8_one.Job, *, again: bool = False) -> Made:
        kept = self.judged[tool]
        known = None if again else kept.load(key)
        if known is None:
            known = int8_one.ask(job)
            if not known.why:
                kept.save(key, known)
        return known


def _figures(chains: _Chains, parent: Made, entries: Sequence[Entry]) -> Iterator[Figure]:
    judged = not chains.quick
    yield Figure("float, right", parent.share(_TEST), f"% of {len(parent.right[_TEST])}")
    ours = [one for one in entries if one.ours]
    peers = [one for one in entries if not one.ours]
    able = [one for one in peers if not judged or _lost(parent, one, _TEST) <= _MOST_LOST]
    for one in entries:
        yield Figure(f"{one.label}: points lost", _lost(parent, one, _TEST), "")
    if not ours or not able:
        name = "chains to compare: ours, and the peers' that keep the accuracy"
        yield Figure(name, min(len(ours), len(able)), "", "at least 1", met=not judged)
        return
    measured = [*ours, *able]
    times = in_turns(
        [chains.parent_folder / chain_one.MODEL, *(one.artifact for one in measured)],
        processes=_QUICK_PROCESSES if chains.quick else _PROCESSES,
        rounds=_QUICK_ROUNDS if chains.quick else _ROUNDS,
    )
    yield Figure("float", times.median_ns(0) / 1e6, "ms")
    for which, one in enumerate(measured, 1):
        yield Figure(f"{one.label}: over float", times.compared(0, which).value, "x")
    placed = list(enumerate(measured, 1))
    best = min(placed[len(ours) :], key=lambda place: times.median_ns(place[0]))
    chosen = _chosen(parent, times, placed[: len(ours)])
    yield from _verdict(parent, times, chosen, best, judged=judged)


def _chosen(parent: Made, times: Times, ours: Sequence[tuple[int, Entry]]) -> tuple[int, Entry]:
    """The fastest that keeps the accuracy on the validation data, or the one that keeps most."""
    keeping = [place for place in ours if _lost(parent, place[1], _VAL) <= _MOST_LOST]
    if keeping:
        return min(keeping, key=lambda place: times.median_ns(place[0]))
    return min(ours, key=lambda place: _lost(parent, place[1], _VAL))


def _verdict(
    parent: Made,
    times: Times,
    ours: tuple[int, Entry],
    peer: tuple[int, Entry],
    *,
    judged: bool,
) -> Iterator[Figure]:
    """The chain that we chose beside the peers' best."""
    lost = _lost(parent, ours[1], _TEST)
    goal = f"at most {_MOST_LOST:g}" if judged else ""
    name = f"our chain, chosen on val: {ours[1].label}: points lost"
    yield Figure(name, lost, "", goal, met=not judged or lost <= _MOST_LOST)
    vnni = judged and "avx512_vnni" in machine_facts().instruction_sets
    for said, other, least in (
        ("float", 0, _LEAST_OVER_FLOAT),
        (f"the peers' best, {peer[1].label}", peer[0], _LEAST_OVER_PEERS),
    ):
        found = times.compared(other, ours[0])
        yield Figure(
            f"our chain over {said}, {found.low:.3f} to {found.high:.3f}",
            found.value,
            "x",
            f"at least {least:g}" if vnni else "",
            met=not vnni or found.value >= least,
        )


def _lost(parent: Made, one: Entry, split: int) -> float:
    return parent.share(split) - one.made.share(split)


def _label(job: Job) -> str:
    if job.tool == OURS:
        return f"{OURS} to {job.share:g} of {'INT8 latency' if job.measured else 'the MACs'}"
    rounded = f" in steps of {job.round_to}" if job.round_to > 1 else ""
    return f"{PEER} to {job.share:g} of the MACs{rounded}"


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
