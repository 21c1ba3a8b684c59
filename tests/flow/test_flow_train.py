"""Training a recipe: its weights appear where it says, on demand or when asked for."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from deploykit.core.errors import BadInputError
from deploykit.flow.export import ExportRequest, run_export
from deploykit.flow.train import train_recipe, with_weights
from deploykit.load.recipe import load_recipe
from deploykit.load.sources import Source, resolve

if TYPE_CHECKING:
    from pathlib import Path

NET = "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
RECIPE = """
schema = "deploykit/recipe"
version = "1.0"
[source]
net = "net.py:build"
weights = "trained/weights.safetensors"
inputs = ["x=N[1..4]x1x8x8"]
[data]
train = "digits:train[:128]"
val = "digits:val[:64]"
[train]
epochs = 1
batch_size = 32
learning_rate = 0.05
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.mark.slow
def test_export_trains_what_is_not_there_yet_and_then_uses_it(project: Path) -> None:
    result = run_export(ExportRequest(Source(str(project)), project.parent / "out"))
    path = project / "trained" / "weights.safetensors"
    assert path.is_file()
    assert [path.name for path in path.parent.iterdir()] == ["weights.safetensors"]
    assert "weights_file" in result.artifact.history[0].input_digests

    made = path.read_bytes()
    again = run_export(ExportRequest(Source(str(project)), project.parent / "again"))
    assert again.reused == ("export", "verify")
    assert path.read_bytes() == made

    with pytest.raises(BadInputError) as caught:
        train_recipe(load_recipe(project))
    assert str(caught.value) == f"{path} exists already: add --overwrite to train it anew"

    trained = train_recipe(load_recipe(project), changes={"epochs": 2}, overwrite=True)
    assert trained.weights == path
    assert trained.epochs == 2
    assert 0 < trained.val_score <= 1
    assert trained.seconds > 0
    assert path.read_bytes() != made


def test_initial_weights_depend_on_the_seed_alone(project: Path) -> None:
    """Otherwise a run that was killed would not be known again."""
    made = []
    for seed in (0, 0, 1):
        shutil.rmtree(project / ".deploykit", ignore_errors=True)
        done = train_recipe(load_recipe(project), changes={"seed": seed}, overwrite=True)
        made.append(done.weights.read_bytes())

    assert made[0] == made[1] != made[2]


def test_weights_of_the_caller_are_never_trained(project: Path) -> None:
    recipe = load_recipe(project)
    other = resolve(Source(str(project), weights=project / "mine.safetensors"))

    assert with_weights(other, recipe) is other


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'weights = "trained/weights.safetensors"\n',
            "",
            ': training needs a place: [source] weights = "weights.safetensors"',
        ),
        (
            "weights.safetensors",
            "weights.pt",
            ': training needs a place: [source] weights = "weights.safetensors"',
        ),
        ('train = "digits:train[:128]"\n', "", ": training needs [data] train and val"),
        ('val = "digits:val[:64]"\n', "", ": training needs [data] train and val"),
    ],
)
def test_a_recipe_that_cannot_be_trained_says_what_it_lacks(
    project: Path, old: str, new: str, words: str
) -> None:
    (project / "recipe.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(BadInputError) as caught:
        train_recipe(load_recipe(project))

    assert str(caught.value) == f"{project}{words}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs", "epoch", "[train]: unknown key 'epoch'; did you mean 'epochs'?"),
        ("epochs = 1", 'epochs = "1"', "[train]: Expected `int`, got `str` - at `$.epochs`"),
        ("epochs = 1", "epochs = 0", "epochs must be 1 or more, not 0"),
    ],
)
def test_options_that_cannot_be_are_refused(project: Path, old: str, new: str, words: str) -> None:
    (project / "recipe.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(BadInputError) as caught:
        train_recipe(load_recipe(project))

    assert str(caught.value) == words
    assert not (project / "trained").exists()
