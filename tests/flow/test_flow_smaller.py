"""A student made of its teacher: right shapes, weights of either kind, and made again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from deploykit.compress.distill.smaller_options import SmallerOptions
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.flow.distill.distill import DistillResult, run_distill
from deploykit.flow.distill.record import DISTILLATION, Distillation
from deploykit.flow.distill.request import DistillRequest
from deploykit.flow.distill.smaller import reached, smaller_copy
from deploykit.flow.plans import read_plans, write_plans
from deploykit.flow.rebuild import load_model
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import state_digest
from deploykit.load.sources import Source, resolve
from deploykit.load.weights import write_weights
from deploykit.nets.resnet import resnet

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import Model
    from deploykit.flow.distill.smaller import SmallerCopy
    from tests.flow.conftest import Prune

NET = """
from torch import nn
from deploykit.nets.resnet import ResNet

def build():
    return ResNet(channels=(16, 32), blocks=2, in_channels=1, classes=10)

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1)) if x.sum() > 0 else self.fc(-x.flatten(1))
"""
TINY_INPUT = "x=N[1..8]x1x8x8"
HALF = SmallerOptions(width=0.5, depth=0.5)
TRAIN, VAL = "digits:train[:128]", "digits:val[:60]"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def source(name: str = "build") -> Source:
    return Source(f"net.py:{name}", inputs=parse_inputs([TINY_INPUT]))


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.module.state_dict().items()}


@pytest.fixture
def teacher(place: Path) -> Model:
    assert place.is_dir()
    torch.manual_seed(1)
    return load_model(source())


def made_again(copy: SmallerCopy, of: Source, folder: Path) -> Model:
    folder.mkdir()
    write_weights(folder / "weights.safetensors", copy.model.module)
    plans = tuple(folder / name for name in write_plans(folder, copy.plans))
    return load_model(replace(of, plans=plans, weights=folder / "weights.safetensors"))


def test_it_is_the_architecture_that_a_person_would_write(teacher: Model) -> None:
    made = smaller_copy(teacher, source(), HALF)

    written = resnet(channels=(8, 16), blocks=1)
    wanted = {name: tuple(tensor.shape) for name, tensor in written.state_dict().items()}
    found = shapes(made.model)
    assert found == {name: shape for name, shape in wanted.items() if name in found}
    assert all(name.endswith("num_batches_tracked") for name in wanted.keys() - found.keys())
    record = made.record
    assert record.left_out == ("stages.0.1", "stages.1.1")
    assert (record.before.parameters, record.after.parameters) == (
        sum(p.numel() for p in teacher.module.parameters()),
        sum(p.numel() for p in written.parameters()),
    )
    assert record.kept * 2 == record.channels
    assert list(record.whole) == ["head"]
    text = reached(record)
    assert text.startswith("2 of 3 residual blocks left out; ")
    assert "groups of channels narrowed, to 0.5 together (head is an output of the network" in text
    assert f"{record.before.parameters:,} -> {record.after.parameters:,} parameters" in text


@pytest.mark.parametrize("anew", [False, True])
def test_it_is_built_again_from_plan_and_weights(
    teacher: Model, place: Path, *, anew: bool
) -> None:
    made = smaller_copy(teacher, source(), HALF, anew=anew)

    again = made_again(made, source(), place / "kept")

    feed = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert state_digest(again.module) == state_digest(made.model.module)
    assert torch.equal(again.module(feed), made.model.module(feed))


def test_weights_are_the_teachers_largest_channels(teacher: Model) -> None:
    made = smaller_copy(teacher, source(), SmallerOptions(width=0.5)).model.module.state_dict()

    name = "stages.0.0.conv1.weight"
    whole = teacher.module.state_dict()
    rows = {tuple(row.flatten().tolist()) for row in whole["stem.0.weight"]}
    assert all(tuple(row.flatten().tolist()) in rows for row in made["stem.0.weight"])
    assert made[name].abs().mean() > whole[name].abs().mean()


def test_initial_weights_are_as_wide_as_those_of_a_small_network(teacher: Model) -> None:
    first, again, other = (
        smaller_copy(teacher, source(), HALF, anew=True, seed=seed).model.module
        for seed in (3, 3, 4)
    )

    assert state_digest(first) == state_digest(again) != state_digest(other)
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(16, 16, 3)
    found = first.state_dict()
    assert float(found["stages.1.0.conv2.weight"].std()) == pytest.approx(
        float(layer.weight.detach().std()), rel=0.05
    )
    assert found["stem.1.running_var"].unique().tolist() == [1]
    assert found["stem.1.weight"].unique().tolist() == [1]


def test_a_pruned_teacher_has_one_plan_more_of_the_whole(prune: Prune, nets: Path) -> None:
    out = prune(changes={"ratio": 0.3, "align": "1"}, finetune=False).folder
    of = resolve(Source(str(out)))
    before = load_model(of)

    for anew in (False, True):
        made = smaller_copy(before, of, SmallerOptions(width=0.5, align=1), anew=anew)

        assert made.record.before.parameters > made.record.after.parameters
        again = made_again(made, replace(of, plans=()), nets / f"kept{anew}")
        assert state_digest(again.module) == state_digest(made.model.module)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "plain", SmallerOptions(depth=0.5),
            "depth 0.5: the network has no residual blocks that can be left out, which takes two",
        ),
        (
            "plain", SmallerOptions(width=0.9),
            "width 0.9 and depth 1 leave the network as it is, in steps of 8 channels: ask for",
        ),
        ("Branch", SmallerOptions(width=0.5), "torch.export cannot capture"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("place")
def test_what_cannot_be_made_is_one_line(name: str, options: SmallerOptions, says: str) -> None:
    with pytest.raises(BadInputError) as caught:
        smaller_copy(load_model(source(name)), source(name), options)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_student_is_there_or_made_not_both(place: Path) -> None:
    with pytest.raises(BadInputError, match="give a STUDENT, or width, not both"):
        DistillRequest(source("plain"), source(), place / "out", smaller={"width": 0.5})


def distil(place: Path, out: str, student: Source, by: Source, **asked: Any) -> DistillResult:
    tuning = {"epochs": 1, "batch_size": 32, "learning_rate": 0.05}
    request = DistillRequest(
        student, by, place / out, tuning=tuning, train=TRAIN, val=VAL, **asked
    )  # fmt: skip
    return run_distill(request)


@pytest.mark.slow
@pytest.mark.parametrize("anew", [False, True])
def test_a_smaller_copy_is_trained_and_handed_over(place: Path, *, anew: bool) -> None:
    smaller = {"width": 0.5, "depth": 0.5}

    result = distil(place, "out", source(), source(), smaller=smaller, anew=anew)

    found = records.load(result.folder / "distillation.json", Distillation, DISTILLATION)
    assert found == result.distillation
    assert found.smaller is not None
    assert (found.smaller.width, found.smaller.depth, found.smaller.anew) == (0.5, 0.5, anew)
    assert found.student_parameters == found.smaller.after.parameters
    again = load_model(Source(str(result.folder)))
    assert state_digest(again.module) == result.report.artifact_digest
    assert shapes(again)["head.weight"] == (10, 16)


@pytest.mark.slow
def test_a_pruned_network_is_a_student_with_its_plan(prune: Prune, nets: Path) -> None:
    small = Source(str(prune(changes={"ratio": 0.5, "align": "1"}, finetune=False).folder))
    whole = Source(f"{nets}/net.py:build", inputs=parse_inputs([TINY_INPUT]))

    result = distil(nets, "taught", small, whole)

    assert read_plans(resolve(Source(str(result.folder))).plans) == read_plans(resolve(small).plans)
    again, before = load_model(Source(str(result.folder))), load_model(small)
    assert shapes(again) == shapes(before)
    assert state_digest(again.module) == result.report.artifact_digest
    assert state_digest(again.module) != state_digest(before.module)
