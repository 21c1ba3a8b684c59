"""`python -m benchmarks.distillation_one JOB`: one student trained, alone or taught, and judged.

With a teacher and without, by us and by the peer: the initial weights, the samples, their order and
augmentation, the schedule of the rate and the choice of the epoch are those of the seed.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.packages import ROOT

if TYPE_CHECKING:
    from torch import nn

    from deploykit.core.types import Option
    from deploykit.load.data import Data
    from deploykit.train.options import TrainOptions

MODELS = ROOT / "models"
TEACHER, ALONE, OURS, PEER = "teacher", "alone", "deploykit", "torchdistill"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a student may use.

    Attributes:
        epochs: passes over `train`.
        train: data to learn from.
        val: data that chooses the epoch.
        test: data that only reports.
        batch_size: samples a step.
        learning_rate: the highest; 0 is the recipe's.
    """

    epochs: int
    train: str = "fashion-mnist:train[:55000:5]"
    val: str = "fashion-mnist:val[::5]"
    test: str = "fashion-mnist:test"
    batch_size: int = 128
    learning_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """One student.

    Attributes:
        student: a folder of models/, whose recipe trains it.
        teacher: likewise.
        tool: who teaches: `OURS`, `PEER`, `ALONE`, or `TEACHER`: the teacher itself is judged.
        seed: of the initial weights, the order of the samples and their augmentation. A student
            that its folder's plan makes of the teacher has no initial weights.
        budget: of the training.
        way: of the peer; of ours, options as "weight=0.5 temperature=4", "" for its own.
    """

    student: str
    teacher: str
    tool: str
    seed: int
    budget: Budget
    way: str = ""

    @property
    def key(self) -> str:
        """Names it among kept results."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]
        return f"{self.student}-{self.tool}-{self.seed}-{digest}"


@dataclass(frozen=True, slots=True)
class Made:
    """What came of it.

    Attributes:
        right: test images.
        count: of them.
        val_accuracy: of the epoch that was chosen by it, 0 to 1.
        seconds: that training took.
    """

    right: int
    count: int
    val_accuracy: float
    seconds: float


def make(job: Job) -> Made:
    """Train and judge."""
    from benchmarks.peers.torchdistill_one import share_right
    from deploykit.load.datasets import open_data

    test = open_data(job.budget.test)
    began = time.monotonic()
    net, val_accuracy = (_teacher(job), 0.0) if job.tool == TEACHER else _trained(job)
    seconds = time.monotonic() - began
    return Made(round(share_right(net, test) * len(test)), len(test), val_accuracy, seconds)


def _trained(job: Job) -> tuple[nn.Module, float]:
    from benchmarks.peers.torchdistill_one import WAYS, taught
    from deploykit.flow.train import train_options
    from deploykit.load.datasets import open_data
    from deploykit.load.recipe import load_recipe

    changes: dict[str, Option] = {
        "epochs": job.budget.epochs,
        "batch_size": job.budget.batch_size,
        "seed": job.seed,
    }
    if job.budget.learning_rate:
        changes["learning_rate"] = job.budget.learning_rate
    learner = job.teacher if _plan(job).is_file() else job.student  # whose recipe says how
    options = train_options(load_recipe(MODELS / learner), changes)
    splits = open_data(job.budget.train), open_data(job.budget.val)
    student = _student(job)
    if job.tool == PEER:
        return taught(student, _teacher(job), splits, options, WAYS[job.way])
    return _ours(job, student, splits, options)


def _ours(
    job: Job, student: nn.Module, splits: tuple[Data, Data], options: TrainOptions
) -> tuple[nn.Module, float]:
    import deploykit.compress.distill.loss as distillation
    from deploykit.compress.distill.options import DistillOptions
    from deploykit.flow.tables import options_from
    from deploykit.train.loop import train

    loss = None
    if job.tool == OURS:
        asked = dict(one.split("=") for one in job.way.split())
        known = {
            name: value if name in {"method", "course"} else float(value)
            for name, value in asked.items()
        }
        loss = distillation.taught(_teacher(job), options_from(known, DistillOptions, "distill"))
    with tempfile.TemporaryDirectory() as folder:
        done = train(student, *splits, options, folder=Path(folder), loss=loss)
    return done.module, done.val_score


def _student(job: Job) -> nn.Module:
    """With the initial weights of the seed, as `deploykit train` has them, or split as planned."""
    from deploykit.compress.separable.plan import SeparablePlan
    from deploykit.flow.plans import read_plan
    from deploykit.flow.rebuild import load_model, separated
    from deploykit.load.inputs import parse_inputs
    from deploykit.load.modules import load_source
    from deploykit.load.recipe import load_recipe
    from deploykit.load.sources import Source
    from deploykit.nets.seeding import initial_weights

    if _plan(job).is_file():
        plan = read_plan(_plan(job))
        assert isinstance(plan, SeparablePlan)
        return separated(load_model(Source(str(MODELS / job.teacher))), plan).module.train()
    recipe = load_recipe(MODELS / job.student)
    net = recipe.source
    source = Source(
        net.net, inputs=parse_inputs(net.inputs), options=net.options, base=recipe.folder
    )
    with initial_weights(job.seed):
        return load_source(source).module


def _plan(job: Job) -> Path:
    """What makes a student of the teacher, where there is one."""
    return MODELS / job.student / "plan.json"


def _teacher(job: Job) -> nn.Module:
    """As `deploykit` has it: shipped, or trained on demand by its recipe."""
    from deploykit.flow.train import with_weights
    from deploykit.load.modules import load_source
    from deploykit.load.recipe import load_recipe
    from deploykit.load.sources import Source, resolve

    folder = MODELS / job.teacher
    source = with_weights(resolve(Source(str(folder))), load_recipe(folder))
    return load_source(source).module.eval()


def main(text: str) -> None:
    """Do the job that a JSON text describes and print what came of it, as the last line."""
    made = make(msgspec.json.decode(text, type=Job))
    print(msgspec.json.encode(made).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
