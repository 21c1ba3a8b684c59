"""`python -m benchmarks.chain_one JOB`: the reference network pruned, fine-tuned and exported.

Whoever prunes, fine-tuning has the same data, epochs and rate: what `deploykit compress prune` does
by default, a quarter of the epochs and of the rate that the network was trained with. Ours has the
whole network as its teacher beside the labels (`compress prune --distill`), which the peer's tools
do not offer. Training goes on from its checkpoint, and a decision that was made stays.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.fine_tuned import NETWORK, OURS, Budget
from benchmarks.in_child import ONE_THREAD, ChildError, answer
from benchmarks.packages import BENCH

if TYPE_CHECKING:
    from torch import nn

    from deploykit.core.types import Model

MODEL = "model.onnx"
_TABLES = BENCH / "chain" / "tables"
_ALIGN = 8  # where nothing is measured
_TEACHER = (0.9, 4.0)
"""Its weight and temperature, chosen on the validation data."""


@dataclass(frozen=True, slots=True)
class Job:
    """One network to make.

    Attributes:
        tool: `benchmarks.fine_tuned.OURS` or `PEER`.
        share: that is left: of the measured INT8 latency for ours, of the MACs for the peer.
        round_to: for the peer: channels are multiples of it.
        budget: of the fine-tuning.
        measured: for ours: false aims at MACs instead, for a quick look.
    """

    tool: str
    share: float
    round_to: int
    budget: Budget
    measured: bool = True

    @property
    def key(self) -> str:
        """Names it among kept results."""
        rest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]
        return f"{self.tool}-{self.share:g}-{self.round_to}-{rest}"


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it.

    Attributes:
        macs: of one image.
        val_accuracy: of the epoch that was chosen by it, 0 to 1.
        train_s: what fine-tuning took.
    """

    macs: float
    val_accuracy: float
    train_s: float


def ask(job: Job, folder: Path, *, decide_only: bool = False) -> Trained:
    """Make it in a child process; the float network is `folder / MODEL` then.

    Args:
        job: what to make.
        folder: of this job alone; what an interrupted run left there is gone on with.
        decide_only: which channels go is decided and kept, and nothing is trained.
    """
    texts = [msgspec.json.encode(job).decode(), str(folder), *(["decide"] if decide_only else [])]
    try:
        told = answer("benchmarks.chain_one", *texts, environment=ONE_THREAD)
    except ChildError as error:
        sys.exit(f"chain: {job.tool} to {job.share:g} failed: {error}")
    return msgspec.json.decode(told, type=Trained)


def make(job: Job, folder: Path) -> Trained:
    """Prune, fine-tune and export here."""
    from deploykit.compress.distill.loss import taught
    from deploykit.compress.distill.options import DistillOptions
    from deploykit.export.options import ExportOptions
    from deploykit.export.torch_to_onnx import export_model
    from deploykit.flow.prune.tune import tune_options
    from deploykit.load.datasets import open_data
    from deploykit.load.modules import load_source
    from deploykit.load.recipe import load_recipe
    from deploykit.load.sources import Source
    from deploykit.train.loop import train

    folder.mkdir(parents=True, exist_ok=True)
    model = load_source(Source(str(NETWORK)))
    small = _smaller(model, job, folder)
    options = tune_options(dict(load_recipe(NETWORK).train), {"epochs": job.budget.epochs})
    soft = DistillOptions(*_TEACHER) if job.tool == OURS else None
    done = train(
        small,
        open_data(job.budget.train),
        open_data(job.budget.val),
        options,
        folder=folder / "train",
        loss=taught(model.module, soft) if soft else None,
        loss_key=f"{soft or ''}",
    )
    trained = replace(model, module=done.module)
    (folder / MODEL).unlink(missing_ok=True)
    export_model(trained, folder, ExportOptions())
    return Trained(_macs(trained), done.val_score, done.seconds)


def decide(job: Job, folder: Path) -> Trained:
    """Prune only: what was decided on the way stays in the folder."""
    from deploykit.load.modules import load_source
    from deploykit.load.sources import Source

    folder.mkdir(parents=True, exist_ok=True)
    model = load_source(Source(str(NETWORK)))
    return Trained(_macs(replace(model, module=_smaller(model, job, folder))), 0.0, 0.0)


def _smaller(model: Model, job: Job, folder: Path) -> nn.Module:
    if job.tool == OURS:
        from benchmarks.chain_ours import cut_to_latency, cut_to_macs

        if not job.measured:
            return cut_to_macs(model, job.share, _ALIGN)
        return cut_to_latency(model, job.share, folder, _TABLES)
    import torch

    from benchmarks import packages
    from benchmarks.peers.torch_pruning_cut import Way
    from benchmarks.peers.torch_pruning_cut import cut_to_macs as cut_by_peer

    packages.on_path()
    # The way that kept the most accuracy in `pruning_accuracy`.
    way = Way(over_all=True, isomorphic=True, round_to=job.round_to)
    return cut_by_peer(model.module, torch.zeros(1, 1, 28, 28), job.share, way)


def _macs(model: Model) -> float:
    """Counted by the same code, whoever pruned."""
    from deploykit.compress.prune.analysis.cost import macs_of
    from deploykit.compress.prune.graph.program import program_of

    return sum(macs_of(program_of(model)).values())


def main(text: str, folder: str, only: str = "") -> None:
    """Do the job that a JSON text describes and print what came of it, as the last line."""
    job = msgspec.json.decode(text, type=Job)
    made = decide(job, Path(folder)) if only else make(job, Path(folder))
    print(msgspec.json.encode(made).decode(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
