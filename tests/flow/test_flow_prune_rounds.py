"""Rounds: how much goes in each, where they stop, and what they keep between runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch

from deploykit.compress.prune.options import PruneOptions
from deploykit.compress.prune.plan import Plan
from deploykit.core.progress import silent
from deploykit.flow.cache import Cache
from deploykit.flow.prune.cutting import Cutting
from deploykit.flow.prune.rounds import Rounds, Stand, Way
from deploykit.flow.prune.size import kept_of, network_of, size_of
from deploykit.flow.rebuild import load_model, pruned
from deploykit.load.inputs import parse_inputs
from deploykit.load.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.core.types import Model
    from deploykit.flow.prune.size import Network


class Loop(NamedTuple):
    network: Network
    rounds: Rounds
    way: Way
    tried: list[Model]

    def run(self, most: int = 9) -> Stand | None:
        return self.rounds.run(self.way, lambda stand: len(stand.rows) <= most)


@pytest.fixture
def network(nets: Path) -> Network:
    source = Source(
        f"{nets}/net.py:build", inputs=parse_inputs(("x=N[1..8]x1x8x8",)), options={"width": 32}
    )
    return network_of(load_model(source), PruneOptions())


def loop_of(
    network: Network, home: Path, rounds: int, kept: dict[str, int] | None = None, **changes: Any
) -> Loop:
    options = PruneOptions(**changes)
    cutting = Cutting(options, {group.name: 1 for group in network.structure.free}, None, kept)
    tried: list[Model] = []
    way = Way(
        Stand(network.model, Plan()), network, rounds, lambda: cutting.scores(network), tried.append
    )
    loop = Rounds(cutting, None, None, "", Cache(home / "cache"), "key", silent)
    return Loop(network, loop, way, tried)


def run(loop: Loop, most: int = 9) -> Stand:
    stand = loop.run(most)
    assert stand is not None
    return stand


@pytest.mark.parametrize("of", ["macs", "parameters", "channels"])
def test_each_round_takes_the_same_share_of_what_should_be_left(
    network: Network, tmp_path: Path, of: str
) -> None:
    stand = run(loop_of(network, tmp_path, 3, ratio=0.6, of=of))
    whole, left = size_of(network.program), [row.size for row in stand.rows]
    aims = [0.4 ** (number / 3) for number in (1, 2, 3)]

    for size, aim in zip(left, aims, strict=True):
        share = {
            "macs": size.macs / whole.macs,
            "parameters": size.parameters / whole.parameters,
            "channels": aim,
        }[of]
        assert aim - 0.05 < share <= aim
    kept = kept_of(network.structure, stand.plan)
    if of == "channels":
        assert kept["conv1"] + kept["conv2"] == 38  # the whole number below 0.4 of 96


def test_the_size_of_a_round_is_that_of_its_network(network: Network, tmp_path: Path) -> None:
    stand = run(loop_of(network, tmp_path, 2))

    assert stand.rows[-1].size == size_of(network_of(stand.model, PruneOptions()).program)


def test_no_round_counts_the_share_that_a_group_keeps_anew(
    network: Network, tmp_path: Path
) -> None:
    stand = run(loop_of(network, tmp_path, 3, ratio=0.95, max_ratio=0.5))

    kept = kept_of(network.structure, stand.plan)
    assert {name: kept[name] for name in ("conv1", "conv2")} == {"conv1": 16, "conv2": 32}


def test_planned_counts_are_met_in_the_last_round(network: Network, tmp_path: Path) -> None:
    kept = {"conv1": 8, "conv2": 64}
    stand = run(loop_of(network, tmp_path, 3, kept))

    found = kept_of(network.structure, stand.plan)
    assert {name: found[name] for name in kept} == kept
    assert len(stand.rows) == 3


def test_the_plan_of_all_rounds_gives_the_network_at_once(network: Network, tmp_path: Path) -> None:
    stand = run(loop_of(network, tmp_path, 3, ratio=0.7))
    at_once = pruned(network.model, stand.plan).module
    images = torch.linspace(-1, 1, 3 * 64).reshape(3, 1, 8, 8)

    with torch.no_grad():
        assert torch.equal(at_once(images), stand.model.module(images))


def test_the_last_round_that_is_allowed_is_the_result(network: Network, tmp_path: Path) -> None:
    loop = loop_of(network, tmp_path, 3)

    assert len(run(loop, most=2).rows) == 2
    assert loop.run(most=0) is None


def test_without_rounds_what_there_was_stands(network: Network, tmp_path: Path) -> None:
    before = run(loop_of(network, tmp_path, 1))
    loop = loop_of(network, tmp_path, 0)
    way = Way(before, loop.network, 0, loop.way.scores, loop.way.try_out)

    assert loop.rounds.run(way, lambda _: True) is before
    assert loop.rounds.run(way, lambda _: False) is None


def test_finished_rounds_are_read_and_others_made(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(loop_of(network, tmp_path, 2))
    chosen: list[int] = []
    choose = Rounds._choose

    def counting(self: Rounds, network: Network, number: int, way: Way) -> Any:
        chosen.append(number)
        return choose(self, network, number, way)

    monkeypatch.setattr(Rounds, "_choose", counting)
    again = run(loop_of(network, tmp_path, 2))
    assert chosen == []
    assert again.plan == first.plan
    assert again.rows == first.rows
    state = again.model.module.state_dict()
    assert all(torch.equal(state[k], v) for k, v in first.model.module.state_dict().items())

    newest = max((tmp_path / "cache").glob("*/plan.json"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_text("{")  # damaged: made again, and the one before it not
    assert run(loop_of(network, tmp_path, 2)).plan == first.plan
    assert chosen == [1]


def test_a_round_without_training_is_not_tried_out_first(network: Network, tmp_path: Path) -> None:
    loop = loop_of(network, tmp_path, 1)
    run(loop)

    assert loop.tried == []


def test_rounds_leave_nothing_but_the_cache(network: Network, tmp_path: Path) -> None:
    run(loop_of(network, tmp_path, 1))
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)

    assert {path.name for path in tmp_path.iterdir()} == {"cache", "net.py"}
