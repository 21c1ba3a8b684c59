"""What the chains of `chain.py` make, network by network and file by file: made once, then kept."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import chain_one, int8_float, int8_one, packages
from benchmarks.chain_one import Job, Trained
from benchmarks.fine_tuned import NETWORK, OURS, PEER, Budget
from benchmarks.int8_one import FLOAT, NNCF, ORT, Made
from benchmarks.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_OUR_SHARES = (0.52, 0.48, 0.45)  # of the INT8 latency
_PEER_SHARES = (0.5, 0.4, 0.3, 0.25)  # of the MACs
_ROUND_TO = (1, 8)
_FULL = Budget(epochs=3)
_QUICK = Budget(
    1, "fashion-mnist:train[::200]", "fashion-mnist:val[::50]", "fashion-mnist:test[::10]"
)
_CALIBRATE, _QUICK_CALIBRATE = "fashion-mnist:train[:54784:107]", "fashion-mnist:train[:32]"
WAYS = ((ORT, "min-max"), (ORT, "min-max, int8"), (NNCF, "performance"), (NNCF, "mixed"))
"""How the peers quantize."""
_FULL_S = 36 * 60.0  # what then is not reached is asked by the next run
_POINTS = 100.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A chain that has run: an INT8 file, and what it keeps.

    Attributes:
        label: as people read it.
        ours: whose it is.
        rounded: for the peers': whether channels are multiples of 8.
        artifact: the file or folder.
        made: its judgements.
    """

    label: str
    ours: bool
    rounded: bool
    artifact: Path
    made: Made


@dataclass(frozen=True, slots=True)
class Chains:
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
    def of_here(cls, *, quick: bool) -> Chains:
        """With what this code and machine have made already."""
        here, code = packages.ROOT / "benchmarks", packages.ROOT / "deploykit"
        network = [path for path in NETWORK.iterdir() if path.is_file()]
        both = [here / "chain_one.py", *network, *(code / "train").glob("*.py")]
        ours = [here / "chain_ours.py", *(code / "compress").rglob("*.py")]
        theirs = [here / "peers" / "torch_pruning_cut.py", packages.REQUIREMENTS]
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
        return WAYS[::2] if self.quick else WAYS

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
        return Entry(label, job.tool == OURS, job.round_to > 1, out, made)

    def _judged(self, tool: str, key: str, job: int8_one.Job, *, again: bool = False) -> Made:
        kept = self.judged[tool]
        known = None if again else kept.load(key)
        if known is None:
            known = int8_one.ask(job)
            if not known.why:
                kept.save(key, known)
        return known


def _label(job: Job) -> str:
    if job.tool == OURS:
        return f"{OURS} to {job.share:g} of {'INT8 latency' if job.measured else 'the MACs'}"
    rounded = f" in steps of {job.round_to}" if job.round_to > 1 else ""
    return f"{PEER} to {job.share:g} of the MACs{rounded}"


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
