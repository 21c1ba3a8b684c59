"""The recipe that a pruned network gets: its paths lead to the whole network from where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploykit.flow.derived import recipe_text
from deploykit.load.inputs import parse_inputs
from deploykit.load.recipe import load_recipe
from deploykit.load.sources import Source, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import Option

HEAD = 'schema = "deploykit/recipe"\nversion = "1.0"\n'


def written(source: Source, out: Path) -> str:
    out.mkdir(parents=True)
    text = recipe_text(source, out)
    (out / "recipe.toml").write_text(text, encoding="utf-8")
    return text


def test_a_file_is_found_from_the_new_folder(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nets)
    inputs = parse_inputs(("x=N[1..8]x1x8x8",))
    options: dict[str, Option] = {"width": 8, "name": 'a "quoted" é 😀', "flag": True, "rate": 0.5}
    out = nets / "build" / "small"
    text = written(Source("net.py:build", inputs=inputs, options=options), out)

    assert 'net = "../../net.py:build"' in text
    found = resolve(Source(str(out)))
    assert (found.base / "../../net.py").resolve() == nets / "net.py"
    assert found.inputs == inputs
    assert found.options == options
    assert found.plans == (out / "plan.json",)
    assert found.weights == out / "weights.safetensors"


def test_a_link_is_followed(nets: Path) -> None:
    (nets / "far" / "away").mkdir(parents=True)
    (nets / "link").symlink_to(nets / "far" / "away")
    out = nets / "link" / "small"
    written(Source(f"{nets}/net.py:build"), out)

    recipe = load_recipe(out)
    assert (out / recipe.source.net.partition(":")[0]).resolve() == nets / "net.py"


@pytest.mark.parametrize("text", ["timm:resnet18", "torchvision:resnet18", "package.nets:build"])
def test_what_is_no_path_stays(nets: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nets)
    (nets / "timm").mkdir()  # its repository, say

    assert f'net = "{text}"' in written(Source(text), nets / "out")


def test_a_recipe_is_named_and_taken_over(nets: Path) -> None:
    (nets / "whole").mkdir()
    (nets / "whole" / "recipe.toml").write_text(
        HEAD + 'task = "classification"\n[source]\nnet = "../net.py:build"\n'
        'inputs = ["x=N[1..8]x1x8x8"]\n[data]\nval = "digits:val"\n[train]\nepochs = 3\n'
    )
    for name in ("whole", "whole/recipe.toml"):
        text = written(Source(str(nets / name)), nets / f"out-{len(name)}")
        assert 'net = "../whole"' in text
        assert "inputs" not in text
    recipe = load_recipe(nets / "out-5")
    assert recipe.source.net == "../net.py:build"
    assert recipe.data.val == "digits:val"
    assert recipe.train == {"epochs": 3}
    assert recipe.task == "classification"
    assert recipe.whole is not None


def test_a_recipe_of_another_name_is_named(nets: Path) -> None:
    (nets / "other.toml").write_text(HEAD + '[source]\nnet = "net.py:build"\n')
    written(Source(str(nets / "other.toml")), nets / "out")

    assert load_recipe(nets / "out").whole == nets / "out" / "../other.toml"


def test_of_a_pruned_network_the_whole_one_is_named(nets: Path) -> None:
    (nets / "whole").mkdir()
    (nets / "whole" / "recipe.toml").write_text(HEAD + '[source]\nnet = "../net.py:build"\n')
    inputs = parse_inputs(("x=N[1..4]x1x8x8",))
    written(Source(str(nets / "whole"), inputs=inputs), nets / "one")
    text = written(Source(str(nets / "one")), nets / "deep" / "two")

    assert 'net = "../../whole"' in text
    assert resolve(Source(str(nets / "deep" / "two"))).inputs == inputs  # of the one between


def test_what_a_pruned_networks_own_recipe_says_goes_along(nets: Path) -> None:
    (nets / "images").mkdir()
    (nets / "one").mkdir()
    (nets / "one" / "recipe.toml").write_text(
        HEAD + 'task = "classification"\n[source]\nnet = "../net.py:build"\nplan = "plan.json"\n'
        'weights = "weights.safetensors"\n[source.options]\nwidth = 16\n[train]\nepochs = 2\n'
        '[data]\nval = "digits:val[:9]"\ntrain = "../images?resize=8[:50]"\n[export]\nopset = 18\n'
    )
    written(Source(str(nets / "one")), nets / "deep" / "two")

    recipe = load_recipe(nets / "deep" / "two")
    assert recipe.source.net == "../../net.py:build"
    assert recipe.source.options == {"width": 16}
    assert recipe.data.val == "digits:val[:9]"
    assert recipe.data.train == "../../images?resize=8[:50]"
    assert (recipe.train, recipe.export) == ({"epochs": 2}, {"opset": 18})
    assert recipe.task == "classification"
