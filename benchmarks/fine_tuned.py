"""`python -m benchmarks.fine_tuned JOB`: the reference network pruned, fine-tuned and judged.

Whoever prunes, the loop, its options and the data are the same: `deploykit.train.loop.train`.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.packages import ROOT

if TYPE_CHECKING:
    from torch import nn

    from deploykit.core.types import Model
    from deploykit.load.data import Data
    from deploykit.load.recipe import Recipe
    from deploykit.train.options import TrainOptions

NETWORK = ROOT / "models" / "fashion_resnet"
OURS, PEER = "deploykit", "torch-pruning"
_WARMUP = 0.1
_JUDGED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Budget:
    """What fine-tuning may use.

    Attributes:
        epochs: passes over `train`.
        train: data to learn from.
        val: data that chooses the epoch.
        test: data that only reports.
        learning_rate: the highest; a quarter of what the network was trained with from nothing.
    """

    epochs: int
    train: str = "fashion-mnist:train"
    val: str = "fashion-mnist:val"
    test: str = "fashion-mnist:test"
    learning_rate: float = 0.025


@dataclass(frozen=True, slots=True)
class Job:
    """One network to make.

    Attributes:
        tool: `OURS`, `PEER`, or "" for the network as it is, which is judged only.
        way: how the tool chooses, or "" where it has one way.
        share: of the MACs that may be left.
        seed: of the fine-tuning.
        budget: of the fine-tuning.
    """

    tool: str
    way: str
    share: float
    seed: int
    budget: Budget

    @property
    def key(self) -> str:
        """Names it among kept results."""
        budget = hashlib.sha256(msgspec.json.encode(self.budget)).hexdigest()[:8]
        return f"{self.tool}-{self.way}-{self.share}-{self.seed}-{budget}"


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of it.

    Attributes:
        macs: of one image.
        parameters: that are left.
        right_at_once: test images that were right before fine-tuning.
        right: and after it.
        count: of the test images.
        val_accuracy: of the epoch that was chosen by it, 0 to 1.
        train_s: what fine-tuning took.
    """

    macs: float
    parameters: int
    right_at_once: int
    right: int
    count: int
    val_accuracy: float
    train_s: float


def make(job: Job) -> Judged:
    """Prune, fine-tune and judge."""
    from deploykit.load.datasets import open_data
    from deploykit.load.modules import load_source
    from deploykit.load.recipe import load_recipe
    from deploykit.load.sources import Source
    from deploykit.train.loop import train

    recipe = load_recipe(NETWORK)
    model = load_source(Source(str(NETWORK)))
    test = open_data(job.budget.test)
    small = _smaller(model, job)
    at_once = _right(small, test)
    macs = _macs(replace(model, module=small))
    total = sum(parameter.numel() for parameter in small.parameters())
    if not job.tool:
        return Judged(macs, total, at_once, at_once, len(test), 0.0, 0.0)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = train(
            small,
            open_data(job.budget.train),
            open_data(job.budget.val),
            _options(recipe, job),
            folder=Path(folder),
        )
    spent = time.monotonic() - began
    right = _right(done.module, test)
    return Judged(macs, total, at_once, right, len(test), done.val_score, spent)


def _options(recipe: Recipe, job: Job) -> TrainOptions:
    from deploykit.flow.train import train_options

    changes = {
        "epochs": job.budget.epochs,
        "seed": job.seed,
        "learning_rate": job.budget.learning_rate,
        "warmup": _WARMUP,
    }
    return train_options(recipe, changes)


def _smaller(model: Model, job: Job) -> nn.Module:
    if job.tool == OURS:
        return _ours(model, job.share)
    if job.tool == PEER:
        return _peers(model, job)
    return model.module


def _ours(model: Model, share: float) -> nn.Module:
    """At one go, all layers competing, by L1 over the group and the MACs that a channel costs."""
    from deploykit.compress.prune.analysis.analyse import analyse
    from deploykit.compress.prune.analysis.cost import macs_of
    from deploykit.compress.prune.choice.score import score
    from deploykit.compress.prune.choice.select import select
    from deploykit.compress.prune.cutting.cut import cut, plan_of
    from deploykit.compress.prune.graph.program import program_of
    from deploykit.compress.prune.options import PruneOptions

    program = program_of(model)
    structure = analyse(program)
    options = PruneOptions(ratio=1 - share, of="macs", align="1")
    selection = select(
        structure,
        score(model.module, structure, options.criterion),
        options,
        shapes={name: tuple(tensor.shape) for name, tensor in model.module.named_parameters()},
        macs=macs_of(program),
    )
    sizes = program.sizes
    return cut(program, plan_of(structure, selection.removed, sizes))


def _peers(model: Model, job: Job) -> nn.Module:
    import torch

    from benchmarks import packages
    from benchmarks.peers.torch_pruning_cut import WAYS, cut_to_macs

    packages.on_path()
    return cut_to_macs(model.module, torch.zeros(1, 1, 28, 28), job.share, WAYS[job.way])


def _macs(model: Model) -> float:
    """Counted by the same code, whoever pruned."""
    from deploykit.compress.prune.analysis.cost import macs_of
    from deploykit.compress.prune.graph.program import program_of

    return sum(macs_of(program_of(model)).values())


def _right(module: nn.Module, data: Data) -> int:
    import torch

    from deploykit.train.samples import InOrder, Samples, loader

    right = 0
    module.eval()
    with torch.inference_mode():
        for images, labels in loader(Samples(data), InOrder(len(data), _JUDGED_AT_ONCE)):
            right += int((module(images).argmax(dim=1) == labels).sum())
    return right


def main(text: str) -> None:
    """Do the job that a JSON text describes and print what came of it, as the last line."""
    judged = make(msgspec.json.decode(text, type=Job))
    print(msgspec.json.encode(judged).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
