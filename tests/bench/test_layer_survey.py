"""Rounds over many probes: what is timed, how often, and what an interruption leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploykit.bench.layer_models import Probe, SizedLayer
from deploykit.bench.layer_shapes import LayerShape
from deploykit.bench.layer_survey import SurveyRules, half_width, is_done, survey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RULES = SurveyRules(budget_ns=1000, weight_bytes=4 * 16 * 8)
SHAPE = LayerShape("matmul", 16, 16)
PROBES = [Probe((SizedLayer(SHAPE, 16, count),)) for count in (4, 8, 12, 16)]


class Machine:
    """A clock that only measuring moves, and layers that take as long as they have outputs."""

    def __init__(self, call_ns: int = 1, noise: float = 0.0) -> None:
        self.now = 0
        self.models: list[list[int]] = []
        self._call_ns, self._noise = call_ns, noise

    def time_block(self, probes: Sequence[Probe], seed: int) -> list[float]:
        self.now += self._call_ns
        counts = [probe.layers[0].outputs for probe in probes]
        self.models.append(counts)
        return [count * (1 + self._noise * (len(self.models) % 3)) for count in counts]

    def survey(
        self,
        known: Mapping[Probe, tuple[float, ...]] | None = None,
        kept: list[dict[Probe, tuple[float, ...]]] | None = None,
        rules: SurveyRules = RULES,
    ) -> dict[Probe, tuple[float, ...]]:
        return survey(
            PROBES, known or {}, rules, self.time_block,
            keep=lambda blocks: kept.append(dict(blocks)) if kept is not None else None,
            progress=lambda message, share: None,
            clock=lambda: self.now,
        )  # fmt: skip


def test_steady_layers_are_timed_as_often_as_needed_and_no_more() -> None:
    blocks = Machine().survey()

    assert blocks == {probe: (probe.layers[0].outputs,) * 3 for probe in PROBES}


def test_unsteady_ones_go_on_to_the_most_blocks() -> None:
    blocks = Machine(noise=0.2).survey()

    assert {len(own) for own in blocks.values()} == {RULES.most_blocks}


def test_a_model_is_as_large_as_a_network_at_most_and_every_round_has_all_probes() -> None:
    machine = Machine()

    machine.survey()

    assert all(16 * 4 * sum(model) <= RULES.weight_bytes or len(model) == 1
               for model in machine.models)  # fmt: skip
    rounds = [count for model in machine.models for count in model]
    assert [sorted(rounds[i : i + 4]) for i in (0, 4, 8)] == [[4, 8, 12, 16]] * 3


def test_every_probe_is_timed_once_even_over_the_budget_but_not_twice() -> None:
    blocks = Machine(call_ns=5000).survey()

    assert {len(own) for own in blocks.values()} == {1}


def test_an_interrupted_survey_goes_on_where_it_was() -> None:
    kept: list[dict[Probe, tuple[float, ...]]] = []
    Machine().survey(kept=kept)
    halfway = kept[2]
    machine = Machine()

    blocks = machine.survey(known=halfway)

    timed = sum(len(model) for model in machine.models)
    assert 0 < timed == 12 - sum(len(own) for own in halfway.values())
    assert {len(own) for own in blocks.values()} == {3}


def test_what_is_known_is_not_timed_again() -> None:
    machine = Machine()

    machine.survey(known=dict.fromkeys(PROBES, (7.0, 7.0, 7.0)))

    assert machine.models == []


def test_the_interval_is_students() -> None:
    # Mean 11, standard deviation 1, t = 4.303 at two degrees of freedom.
    assert half_width((10.0, 11.0, 12.0)) == pytest.approx(4.3027 / 3**0.5 / 11, rel=1e-3)
    assert half_width((10.0,)) is None
    assert not is_done((10.0, 10.0), RULES)
    assert is_done((10.0, 10.0, 10.0), RULES)
    assert not is_done((10.0, 11.0, 12.0), RULES)
