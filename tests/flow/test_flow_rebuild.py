"""A pruned network made again from source, plan and weights; what does not fit, by its place."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from deploykit.core.errors import BadInputError
from deploykit.flow.rebuild import load_model
from deploykit.load.modules import load_source, state_digest
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.flow.conftest import Prune


@pytest.fixture
def small(prune: Prune) -> Path:
    return prune(changes={"of": "channels", "scope": "layer"}).folder  # both groups are cut


def first(plan: dict[str, Any]) -> dict[str, Any]:
    """The cut of `bn1.bias`, [8], the first by name."""
    (cut,) = (cut for cut in plan["cuts"] if cut["parameter"] == "bn1.bias")
    return cut  # type: ignore[no-any-return]  # of a file


def change(folder: Path, by: Callable[[dict[str, Any]], object]) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    by(plan)
    (folder / "plan.json").write_text(json.dumps(plan))


def refused(folder: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        load_model(Source(str(folder)))
    return str(caught.value)


def test_history_and_digests_are_those_of_what_was_read(small: Path) -> None:
    model = load_model(Source(str(small)))
    load, prune = model.history

    assert (load.name, prune.name) == ("load", "prune")
    assert load.options["source"] == "net.py:build"
    assert load.input_digests["state"] == state_digest(model.module)
    assert {"code", "plan", "weights_file"} < set(load.input_digests)
    assert prune.options["cuts"] == len(json.loads((small / "plan.json").read_text())["cuts"])


def test_it_trains_and_evaluates_as_networks_do(small: Path) -> None:
    module = load_model(Source(str(small))).module
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    still = module(images)
    before = module.get_buffer("bn1.running_mean").clone()
    module.train()
    module(images).sum().backward()

    assert not torch.equal(module.get_buffer("bn1.running_mean"), before)
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert not torch.equal(module(images), module(images))  # dropout
    module.load_state_dict(load_model(Source(str(small))).module.state_dict())
    assert torch.equal(module.eval()(images), still)


def test_it_moves_with_its_source(small: Path, nets: Path) -> None:
    expected = state_digest(load_model(Source(str(small))).module)
    moved = nets / "elsewhere"
    moved.mkdir()
    shutil.move(small, moved / "out")
    shutil.move(nets / "net.py", moved)

    assert state_digest(load_model(Source(str(moved / "out"))).module) == expected


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (
            lambda plan: first(plan).update(size=10**30),
            "the plan cuts dimension 0 of bn1.bias from 1000000000000000000000000000000 to ",
        ),
        (
            lambda plan: first(plan).update(kept=[0, 10**30]),
            "the plan keeps index 1000000000000000000000000000000 of bn1.bias, dimension 0, which ",
        ),
        (lambda plan: first(plan).update(kept=[]), "the plan keeps nothing of bn1.bias"),
        (
            lambda plan: first(plan).update(kept=[-1, 2]),
            "the plan keeps index -1 of bn1.bias, dimension 0, which has 8",
        ),
        (
            lambda plan: first(plan).update(kept=[3, 1]),
            "the plan's indices of bn1.bias, dimension 0 are not ascending",
        ),
        (
            lambda plan: first(plan).update(kept=[0, 1]),
            "the plan does not fit the network: it keeps ",
        ),
        (lambda plan: first(plan).update(dim=7), "the plan cuts dimension 7 of bn1.bias from 8 to"),
        (lambda plan: first(plan).update(dim=-1), "the plan does not fit the network: "),
        (
            lambda plan: first(plan).update(parameter="../../bn1.bias"),
            "the plan cuts ../../bn1.bias, which the network does not have or does not use",
        ),
        (lambda plan: first(plan).update(kept="all"), "Expected `array`, got `str` - at `$.cuts["),
        (lambda plan: plan.update(blocks=["conv1"]), "conv1 is no residual block"),
        (lambda plan: plan.update(cuts=[]), "do not fit the network: "),
        (lambda plan: plan.update(version="2.0"), "has version 2.0 of deploykit/prune-plan"),
        (lambda plan: plan.update(schema="deploykit/report"), "is not a deploykit/prune-plan"),
    ],
)
def test_a_plan_that_does_not_fit_says_where(
    small: Path, by: Callable[[dict[str, Any]], object], words: str
) -> None:
    change(small, by)

    assert words in refused(small)


def test_a_plan_of_another_network_is_refused(small: Path) -> None:
    text = (small / "recipe.toml").read_text()
    (small / "recipe.toml").write_text(text.replace(":build", ":Value"))

    assert refused(small).endswith("which the network does not have or does not use")


def test_damaged_and_missing_files_are_named(small: Path) -> None:
    weights, plan = small / "weights.safetensors", small / "plan.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    assert refused(small).startswith(f"weights {weights} are not safetensors, or cut off: ")
    weights.unlink()
    assert refused(small).startswith(f"cannot read {weights}") or "do not exist" in refused(small)
    weights.write_bytes(whole)
    plan.write_text("{")
    assert refused(small).startswith(f"{plan} is not JSON: ")
    plan.unlink()
    assert refused(small) == f"cannot read {plan}: No such file or directory"


def test_without_weights_nothing_is_left_to_chance(small: Path) -> None:
    text = (small / "recipe.toml").read_text()
    (small / "recipe.toml").write_text(text.replace('weights = "weights.safetensors"\n', ""))

    assert refused(small) == (
        f"{small}/plan.json: a network that a plan has changed needs its weights; add --weights"
    )


def test_what_cannot_build_it_says_what_to_do(small: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        load_source(Source(str(small)))
    assert str(caught.value) == (
        f"{small} is a network that takes a plan to build: name its artifact, which deploykit "
        f"export {small} makes"
    )
