"""A recipe whose network is another recipe: what it takes over, and what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploykit.core.errors import BadInputError
from deploykit.load.inputs import parse_inputs
from deploykit.load.recipe import Recipe, load_recipe
from deploykit.load.sources import Source, resolve

HEAD = 'schema = "deploykit/recipe"\nversion = "1.0"\n'
WHOLE = """
task = "classification"
[source]
net = "net.py:build"
weights = "weights.safetensors"
inputs = ["x=N[1..4]x3"]
[source.options]
width = 8
depth = 2
[data]
val = "digits:val"
[train]
epochs = 8
seed = 3
[export]
opset = 18
[[stages]]
name = "prune"
"""


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return written(tmp_path / "whole", WHOLE)


def written(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(HEAD + text)
    return folder


def child(whole: Path, text: str = "", source: str = "") -> Path:
    return written(whole.parent / "child", f'{text}\n[source]\nnet = "../whole"\n{source}\n')


def refused(folder: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        load_recipe(folder)
    return str(caught.value)


def test_what_is_not_said_is_taken_over(whole: Path) -> None:
    recipe, parent = load_recipe(child(whole)), load_recipe(whole)

    assert parent.whole is None
    assert recipe.whole == whole.parent / "child" / "../whole"
    assert (recipe.source.net, recipe.source.inputs) == ("net.py:build", ("x=N[1..4]x3",))
    assert (recipe.data, recipe.task) == (parent.data, "classification")
    assert (recipe.train, recipe.export) == (parent.train, parent.export)
    assert recipe.folder.resolve() == whole  # where its paths lead from
    assert recipe.weights_path is not None
    assert recipe.weights_path.resolve() == whole / "weights.safetensors"
    assert recipe.stages == ()  # they were done


def test_what_is_said_wins(whole: Path) -> None:
    folder = child(
        whole,
        'task = "regression"\n[train]\nepochs = 2\n[export]\nopset = 20\n',
        'plan = "plan.json"\nweights = "own.safetensors"\ninputs = ["x=1x3"]\n'
        "[source.options]\nwidth = 4",
    )
    recipe = load_recipe(folder)

    assert recipe.task == "regression"
    assert recipe.train == {"epochs": 2, "seed": 3}
    assert recipe.export == {"opset": 20}
    assert recipe.source.options == {"width": 4, "depth": 2}
    assert recipe.weights_path == folder / "own.safetensors"
    assert recipe.plan_paths == (folder / "plan.json",)
    source = resolve(Source(str(folder)))
    assert source.inputs == parse_inputs(("x=1x3",))
    assert source.plans == (folder / "plan.json",)


def test_paths_of_both_are_found_from_anywhere(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = child(whole, source='plan = "plan.json"\nweights = "own.safetensors"')
    monkeypatch.chdir(whole.parent)
    source = resolve(Source("child"))

    assert source.plans == (folder / "plan.json",)
    assert source.weights == folder / "own.safetensors"
    assert source.base.resolve() == whole


def test_a_chain_ends_at_the_first(whole: Path) -> None:
    folder = child(whole)
    last = written(whole.parent / "last", f'[source]\nnet = "{folder}"\n')

    assert load_recipe(last).whole is not None
    assert Path(str(load_recipe(last).whole)).resolve() == whole
    assert load_recipe(last).source.options == {"width": 8, "depth": 2}


def test_two_plans_are_refused(whole: Path) -> None:
    folder = child(whole, source='plan = "plan.json"')
    last = written(whole.parent / "last", '[source]\nnet = "../child"\nplan = "plan.json"\n')

    assert refused(last) == (
        f"{last}/recipe.toml has a plan, and so has {last}/../child: name the whole network"
    )
    assert load_recipe(folder).source.plan


def test_data_is_said_where_its_paths_lead_from(whole: Path) -> None:
    folder = child(whole, '[data]\nval = "digits"')

    assert refused(folder) == (
        f"{folder}/recipe.toml: [data] is taken over from {folder}/../whole: say it there"
    )


@pytest.mark.parametrize("net", ["", ".", "recipe.toml", "../self", "../other"])
def test_a_circle_is_refused(tmp_path: Path, net: str) -> None:
    folder = written(tmp_path / "self", f'[source]\nnet = "{net}"\n')
    written(tmp_path / "other", '[source]\nnet = "../self"\n')

    assert "the recipe takes its network over from itself; name a source, such as" in refused(
        folder
    )


def test_a_parent_that_has_moved_is_missed_by_name(whole: Path) -> None:
    folder = child(whole, source='plan = "plan.json"')
    whole.rename(whole.parent / "moved")

    assert refused(folder) == (
        f"{folder}/recipe.toml: the network that it was cut from is not at {folder}/../whole: put "
        "it there again, or mend [source] net"
    )


def test_a_recipe_without_a_plan_is_whole(whole: Path) -> None:
    recipe: Recipe = load_recipe(whole)

    assert recipe.plan_paths == ()
    assert resolve(Source(str(whole))).plans == ()
