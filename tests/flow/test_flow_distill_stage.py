"""The stage "distill" of a recipe: what pruning left learns from the whole network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.progress import silent
from deploykit.flow.distill.record import DISTILLATION, Distillation
from deploykit.flow.stages import check_stages, staged
from deploykit.load.recipe import load_recipe
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

NET = """
from torch import nn

def large():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""
RECIPE = """
schema = "deploykit/recipe"
version = "1.0"
[source]
net = "net.py:large"
weights = "weights.safetensors"
inputs = ["x=N[1..64]x1x8x8"]
[data]
train = "digits:train[:128]"
val = "digits:val[:60]"
[train]
epochs = 2
batch_size = 32
"""
STAGES = """
[[stages]]
name = "prune"
ratio = 0.5
align = "1"
finetune = false
measure = false
[[stages]]
name = "distill"
epochs = 1
weight = 0.8
"""


def write(place: Path, stages: str) -> None:
    (place / "net.py").write_text(NET)
    (place / "recipe.toml").write_text(RECIPE + stages)


@pytest.mark.slow
def test_what_pruning_left_learns_from_the_whole_network_once(tmp_path: Path) -> None:
    from deploykit.flow.train import train_recipe

    write(tmp_path, STAGES)
    recipe = load_recipe(tmp_path)
    train_recipe(recipe)
    check_stages(recipe)

    found = staged(recipe, Source(str(tmp_path)), silent)

    record = records.load(tmp_path / found.text / "distillation.json", Distillation, DISTILLATION)
    assert record.teacher == tmp_path.name
    assert record.student_parameters < record.teacher_parameters == 2410
    assert record.options["weight"] == 0.8
    assert record.training["epochs"] == 1
    steps: list[str] = []
    again = staged(recipe, Source(str(tmp_path)), lambda text, _: steps.append(text))
    assert again == found
    assert not any("epoch" in text for text in steps)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("", "stage distill stands first, so that its teacher would be its student: name one"),
        (
            'teacher = "."\nwieght = 1',
            "stage distill: unknown key 'wieght'; did you mean 'weight'?",
        ),
        ('teacher = "."\nweight = 2', "the teacher's weight must be from 0 to 1, not 2"),
        ('teacher = "."\nepochs = 0', "epochs must be 1 or more, not 0"),
        ("teacher = 3", "stage distill: teacher must name networks, not 3"),
        ('teacher = "."\nunlabelled = 3', "stage distill: unlabelled must be a text, not 3"),
        ('teacher = "."\nanew = "no"', "stage distill: anew must be true or false, not 'no'"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(stage: str, words: str, tmp_path: Path) -> None:
    write(tmp_path, f'[[stages]]\nname = "distill"\n{stage}\n')

    with pytest.raises(BadInputError) as caught:
        check_stages(load_recipe(tmp_path))
    assert words in str(caught.value)
