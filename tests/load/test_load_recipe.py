"""Recipes: the schema's version rule, and typing mistakes with the nearest name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploykit.core.errors import BadInputError
from deploykit.load.recipe import DataTable, is_recipe, load_recipe

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'schema = "deploykit/recipe"\nversion = "1.0"\n'
SOURCE = '[source]\nnet = "net.py:build"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    """What is said of this recipe, after the place of the file."""
    path = write(folder, text)
    with pytest.raises(BadInputError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_the_whole_of_a_recipe(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEAD
        + 'task = "classification"\n'
        + SOURCE
        + 'weights = "sub/w.safetensors"\ninputs = ["x=N[1..4]x3"]\n[source.options]\nwidth = 8\n'
        + '[data]\nval = "digits:val"\n'
        + "[train]\nepochs = 2\n[export]\nopset = 21\n"
        + '[[stages]]\nname = "prune"\nratio = 0.5\n',
    )
    recipe = load_recipe(path)

    assert recipe.source.net == "net.py:build"
    assert recipe.source.inputs == ("x=N[1..4]x3",)
    assert recipe.source.options == {"width": 8}
    assert recipe.data == DataTable(val="digits:val")
    assert recipe.task == "classification"
    assert recipe.train == {"epochs": 2}
    assert recipe.export == {"opset": 21}
    assert recipe.stages == ({"name": "prune", "ratio": 0.5},)
    assert recipe.folder == tmp_path
    assert recipe.weights_path == tmp_path / "sub" / "w.safetensors"
    assert load_recipe(tmp_path) == recipe


def test_what_is_left_out_is_default(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, HEAD + SOURCE))

    assert recipe.weights_path is None
    assert recipe.data == DataTable()
    assert (recipe.train, recipe.export, recipe.stages) == ({}, {}, ())


def test_which_arguments_are_recipes(tmp_path: Path) -> None:
    assert is_recipe("anywhere/other.toml")
    assert not is_recipe(str(tmp_path))
    write(tmp_path, HEAD + SOURCE)
    assert is_recipe(str(tmp_path))


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.7"])
def test_the_same_major_version_reads(tmp_path: Path, version: str) -> None:
    text = HEAD.replace("1.0", version) + SOURCE
    assert load_recipe(write(tmp_path, text)).source.net == "net.py:build"


def test_a_newer_minor_version_may_have_keys_that_we_do_not_know(tmp_path: Path) -> None:
    newer = HEAD.replace("1.0", "1.1") + 'device = "x"\n' + SOURCE + 'branch = "main"\n'

    assert load_recipe(write(tmp_path, newer)).source.net == "net.py:build"
    assert refused(tmp_path, newer.replace("1.1", "1.0")).startswith(": unknown key 'device'")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ' is not a recipe: it must say schema = "deploykit/recipe"'),
        ('schema = "other"\nversion = "1.0"\n', ' is not a recipe: it must say schema = "dep'),
        ('schema = "deploykit/recipe"\n', ': version must be like "1.0", not None'),
        (HEAD.replace('"1.0"', "1.0"), ': version must be like "1.0", not 1.0'),
        (HEAD.replace("1.0", "1"), ": version must be like \"1.0\", not '1'"),
        (
            HEAD.replace("1.0", "2.0"),
            " has version 2.0; this deploykit reads recipes of version 1.x",
        ),
        (
            HEAD.replace("1.0", "0.9"),
            " has version 0.9; this deploykit reads recipes of version 1.x",
        ),
        ("a = ", " is not TOML: Invalid value (at end of document)"),
        (HEAD + 'tsak = "x"\n' + SOURCE, ": unknown key 'tsak'; did you mean 'task'?"),
        (
            HEAD + SOURCE + 'weigths = "w.pt"\n',
            " [source]: unknown key 'weigths'; did you mean 'weights'?",
        ),
        (HEAD + SOURCE + '[data]\nvla = "x"\n', " [data]: unknown key 'vla'; did you mean 'val'?"),
        (HEAD + 'folder = "/"\n' + SOURCE, ": unknown key 'folder'"),
        (HEAD, " is not a valid recipe: Object missing required field `source`"),
        (
            HEAD + "[source]\n",
            " is not a valid recipe: Object missing required field `net` - at `$.source`",
        ),
        (
            HEAD + "[source]\nnet = 3\n",
            " is not a valid recipe: Expected `str`, got `int` - at `$.source.net`",
        ),
        (
            HEAD + SOURCE + "inputs = [1]\n",
            " is not a valid recipe: Expected `str`, got `int` - at `$.source.inputs[0]`",
        ),
        (
            HEAD + SOURCE + "[train]\nbegin = 2020-01-01\n",
            (
                " is not a valid recipe: Expected `bool | int | float | str | array | null`, "
                "got `date` - at `$.train[...]`"
            ),
        ),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert refused(tmp_path, text).startswith(words)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(BadInputError, match=r"recipe\.toml is not TOML: 'utf-8' codec"):
        load_recipe(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        load_recipe(tmp_path / "other.toml")
    assert str(caught.value) == f"cannot read {tmp_path}/other.toml: No such file or directory"
