"""The stage "prune" of a recipe: done once, by everything that it depends on, or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.progress import silent
from deploykit.flow.export import ExportRequest, run_export
from deploykit.flow.prune.prune import run_prune
from deploykit.flow.prune.request import PruneRequest
from deploykit.flow.rebuild import load_model
from deploykit.flow.stages import check_stages, staged
from deploykit.load.recipe import load_recipe
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
schema = "deploykit/recipe"
version = "1.0"
[source]
net = "net.py:build"
inputs = ["x=N[1..8]x1x8x8"]
[data]
train = "digits:train[:64]"
val = "digits:val[:40]"
[train]
epochs = 4
batch_size = 32
"""
STAGE = '[[stages]]\nname = "prune"\nmeasure = false\nratio = 0.4\n'


@pytest.fixture
def project(nets: Path) -> Path:
    (nets / "recipe.toml").write_text(RECIPE + STAGE)
    return nets


def done(project: Path) -> list[str]:
    return sorted(path.name for path in (project / ".deploykit" / "stages").iterdir())


def run(project: Path) -> Source:
    return staged(load_recipe(project), Source(str(project)), silent)


def test_export_prunes_once_and_exports_what_is_left(project: Path) -> None:
    first = run_export(ExportRequest(Source(str(project)), project / "one"))
    assert [step.name for step in first.artifact.history] == ["load", "prune", "export"]
    assert done(project) == done(project)[:1]
    folder = project / ".deploykit" / "stages" / done(project)[0]
    made = (folder / "weights.safetensors").stat().st_mtime_ns

    again = run_export(ExportRequest(Source(str(project)), project / "two"))
    assert again.reused == ("export", "verify")
    assert (folder / "weights.safetensors").stat().st_mtime_ns == made
    report = json.loads((folder / "report.json").read_text())
    assert any(check["name"].startswith("top-1 after val") for check in report["checks"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ratio = 0.4", "ratio = 0.3"),
        ("digits:train[:64]", "digits:train[:96]"),
        ("digits:val[:40]", "digits:val[:41]"),
        ("epochs = 4", "epochs = 8"),
        ("build", "Net"),
    ],
)
def test_a_stage_is_done_anew_when_what_it_depends_on_has_changed(
    project: Path, before: str, after: str
) -> None:
    run(project)
    text = (project / "recipe.toml").read_text()
    (project / "recipe.toml").write_text(text.replace(before, after))
    run(project)

    assert len(done(project)) == 2


def test_a_stage_is_left_alone_when_only_the_export_has_changed(project: Path) -> None:
    run(project)
    (project / "recipe.toml").write_text(RECIPE + STAGE + "[export]\nopset = 18\n")
    run(project)

    assert len(done(project)) == 1


def test_stages_follow_each_other(project: Path) -> None:
    (project / "recipe.toml").write_text(RECIPE + STAGE + STAGE)
    last = run(project)
    model = load_model(last)

    assert len(done(project)) == 2
    assert model.module.get_parameter("conv2.weight").shape[0] < 16 * 0.8
    assert 'net = "../../.."' in (last.base / last.text / "recipe.toml").read_text()


def test_the_stage_does_what_the_command_does(project: Path) -> None:
    folder = run(project)
    (project / "plain").mkdir()
    (project / "plain" / "recipe.toml").write_text(RECIPE.replace("net.py", "../net.py"))
    request = PruneRequest(
        Source(str(project / "plain")), project / "out", {"ratio": 0.4}, measure=False
    )
    result = run_prune(request)

    for name in ("plan.json", "weights.safetensors"):
        made = (folder.base / folder.text / name).read_bytes()
        assert made == (result.folder / name).read_bytes()


def test_an_aim_that_is_missed_ends_the_export(project: Path) -> None:
    (project / "recipe.toml").write_text(
        RECIPE + STAGE.replace("0.4", "0.9") + "max_ratio = 0.25\nfinetune = false\n"
    )
    with pytest.raises(CheckFailedError) as caught:
        run(project)
    words = str(caught.value)
    assert words.startswith("macs left is 0.")
    assert " x, asked for 0.1: this is the closest that the limits allow; " in words
    assert words.endswith(" has what was reached")

    with pytest.raises(CheckFailedError):  # and again, without doing it again
        run(project)
    assert len(done(project)) == 1


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ('name = "prone"', "there is no stage 'prone' in deploykit"),
        ("ratio = 0.5", "there is no stage '' in deploykit"),
        ('name = "prune"\nratoi = 0.5', "stage prune: unknown key 'ratoi'; did you mean 'ratio'?"),
        ('name = "prune"\nratio = 5', "ratio must be above 0 and below 1, not 5"),
        ('name = "prune"\nratio = "a"', "stage prune: Expected `float`, got `str` - at `$.ratio`"),
        ('name = "prune"\nepochs = 0', "epochs must be 1 or more, not 0"),
        ('name = "prune"\nlatency = "soon"', "latency 'soon' is neither a share"),
        ('name = "prune"\nrounds = 0', "rounds must be 1 or more, not 0"),
        ('name = "prune"\nmeasure = false\nthreads = 1', "leave out threads: nothing is measured"),
        (
            'name = "prune"\nlatency = "0.5x"\nratio = 0.5',
            "give a ratio or a latency, not both",
        ),
        ('name = "prune"\nout = "x"', "stage prune: unknown key 'out'"),
    ],
)
def test_what_no_stage_understands_is_told_before_any_work(
    nets: Path, stage: str, words: str
) -> None:
    (nets / "recipe.toml").write_text(f"{RECIPE}[[stages]]\n{stage}\n")
    with pytest.raises(BadInputError) as caught:
        check_stages(load_recipe(nets))
    assert words in str(caught.value)


def test_a_recipe_with_stages_is_not_pruned_by_hand(project: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        run_prune(PruneRequest(Source(str(project)), project / "out"))
    assert str(caught.value) == (
        f"{project} has stages of its own, which export runs: deploykit export {project}, or take "
        "[[stages]] out"
    )
