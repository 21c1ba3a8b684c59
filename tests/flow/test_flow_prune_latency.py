"""Pruning to a latency, with a machine made up: how the aim is looked for, and what is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.bench.layer_shapes import LayerShape
from deploykit.compress.prune.choice.select import Counts, Selection
from deploykit.compress.prune.structure import Group
from deploykit.core.errors import CheckFailedError
from deploykit.core.progress import silent
from deploykit.core.report import Verdict
from deploykit.flow.prune.judge import latency_check
from deploykit.flow.prune.latency import Bench, aimed, counts_at, steps_of
from deploykit.flow.prune.loop import LatencyAim
from deploykit.flow.prune.precision import quantized_name
from deploykit.flow.side_by_side import SideBySide
from deploykit.load.artifacts import load_artifact, read_graph
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import load_source
from deploykit.load.sources import Source
from tests.flow.conftest import TINY_INPUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Machine:
    """Leaves whole steps of 100 channels; the true latency is some function of what is left."""

    def __init__(
        self, latency: Callable[[float], float], step: int = 1, least: int = 1, noise: float = 0.0
    ) -> None:
        self.latency, self.step, self.least, self.noise = latency, step, least, noise
        self.tries: list[tuple[float, bool]] = []

    def choose(self, left: float) -> Selection:
        kept = max(self.least, int(100 * left / self.step + 1e-9) * self.step)
        counts = Counts(kept, None, kept)
        aim = 1 - left
        reached = aim if kept <= 100 * left + 1e-9 else 1 - kept / 100
        return Selection({"g": np.arange(100 - kept)}, aim, reached, Counts(100, None, 100), counts)

    def try_out(self, selection: Selection, *, careful: bool) -> SideBySide:
        share = self.latency(selection.after.channels / 100)
        if not careful:
            share *= 1 + self.noise
        self.tries.append((selection.after.channels / 100, careful))
        return beside(share)

    def aimed(self, share: float) -> tuple[float, float]:
        selection, found = aimed(share, self.choose, self.try_out, silent)
        return selection.after.channels / 100, found.share


def beside(share: float, *, sure: bool = True) -> SideBySide:
    interval = (share * 0.99, share * 1.01) if sure else (None, None)
    return SideBySide(1e6, 1e6 * share, share, *interval)


def test_a_prediction_that_holds_needs_one_try_and_a_careful_one() -> None:
    machine = Machine(lambda left: left)

    assert machine.aimed(0.5) == (0.48, 0.48)
    assert machine.tries == [(0.48, False), (0.48, True)]


@pytest.mark.parametrize("share", [0.7, 0.5, 0.35])
@pytest.mark.parametrize(
    "latency",
    [lambda left: 0.2 + 0.8 * left, lambda left: left**0.5, lambda left: left**1.5],
    ids=["overhead", "flat", "steep"],
)
def test_a_prediction_that_is_off_is_mended(
    latency: Callable[[float], float], share: float
) -> None:
    _, found = Machine(latency).aimed(share)

    assert 0.9 * share <= found <= share


def test_of_wide_steps_the_nearest_below_is_taken() -> None:
    assert Machine(lambda left: left, step=30).aimed(0.5) == (0.3, 0.3)


def test_steps_are_gone_down_until_one_is_within() -> None:
    machine = Machine(lambda left: min(1.0, left + 0.25), step=10)

    assert machine.aimed(0.5) == (0.2, 0.45)


def test_what_only_seemed_to_be_met_is_not_taken() -> None:
    machine = Machine(lambda left: left * 1.04, noise=-0.05)
    left, found = machine.aimed(0.5)

    assert machine.tries[:2] == [(0.48, False), (0.48, True)]
    assert found <= 0.5
    assert left < 0.48


def test_the_fastest_of_all_is_kept_where_nothing_is_fast_enough() -> None:
    machine = Machine(lambda left: 0.6 + 0.4 * left, least=10)
    left, found = machine.aimed(0.3)

    assert left == 0.1
    assert found == pytest.approx(0.64)
    assert len(machine.tries) <= 6


def shape(kind: str = "conv", inputs: int = 16, outputs: int = 32, groups: int = 1) -> LayerShape:
    return LayerShape(
        kind, inputs, outputs,
        spatial=(8, 8), kernel=(3, 3), stride=(1, 1), padding=(1,) * 4, dilation=(1, 1),
        groups=groups, output_padding=(0, 0) if kind == "conv_transpose" else (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "weight", "counts"),
    [
        (shape(), (24, 12, 3, 3), (12, 24)),
        (LayerShape("gemm", 16, 32), (24, 12), (12, 24)),
        (shape(inputs=32, groups=32), (20, 1, 3, 3), (20, 20)),  # depthwise: groups went
        (shape(inputs=16, outputs=32, groups=16), (20, 1, 3, 3), (10, 20)),  # two outputs a group
        (shape(inputs=16, outputs=32, groups=4), (16, 4, 3, 3), (8, 16)),
        (shape(inputs=16, outputs=32, groups=4), (16, 2, 3, 3), (8, 16)),  # a part of each group
        (shape(kind="conv_transpose"), (12, 24, 3, 3), (12, 24)),
        (shape(kind="conv_transpose", groups=4), (8, 8, 3, 3), (8, 16)),  # two groups went
        (shape(kind="conv_transpose", inputs=16, outputs=32, groups=2), (12, 12, 3, 3), (12, 24)),
    ],
)
def test_counts_follow_from_the_weight(
    layer: LayerShape, weight: tuple[int, ...], counts: tuple[int, int]
) -> None:
    assert counts_at(layer, weight) == counts


def test_what_is_slower_is_never_handed_over() -> None:
    with pytest.raises(CheckFailedError) as caught:
        latency_check(beside(1.04), None, "0.5x of its macs")
    assert str(caught.value) == (
        "pruning does not help here: cut to 0.5x of its macs the network takes 1.04x of its time "
        "on ort-cpu; nothing was written"
    )


@pytest.mark.parametrize(
    ("aim", "share", "limit", "verdict"),
    [
        (None, 0.9, 1.0, Verdict.PASSED),
        (LatencyAim.parse("0.6x"), 0.6, 0.6, Verdict.PASSED),
        (LatencyAim.parse("0.6x"), 0.61, 0.6, Verdict.FAILED),
        (LatencyAim.parse("0.5ms"), 0.45, 0.5, Verdict.PASSED),
        (LatencyAim.parse("500us"), 0.51, 0.5, Verdict.FAILED),
    ],
)
def test_the_aim_is_a_ceiling(
    aim: LatencyAim | None, share: float, limit: float, verdict: Verdict
) -> None:
    check = latency_check(beside(share), aim, "it")

    assert check.name == "latency on ort-cpu, of the original's 1 ms"
    assert (check.verdict, check.value, check.limit, check.unit) == (verdict, share, limit, "x")
    assert check.interval == (share * 0.99, share * 1.01)
    assert check.advice == (
        "" if verdict is Verdict.PASSED else "this is the closest that the limits allow"
    )
    assert latency_check(beside(share, sure=False), aim, "it").interval is None


def test_groups_of_units_are_aligned_in_indices() -> None:
    class Eights:
        def counts(self, full: int) -> tuple[int, ...]:
            return tuple(range(8, full + 1, 8))

    groups = (Group("a", 16, ()), Group("heads", 4, (), unit=8))

    assert steps_of(groups, Eights()) == {  # type: ignore[arg-type]  # all that is asked of it
        "a": (8, 16),
        "heads": (8, 16, 24, 32),
    }


@pytest.mark.slow
def test_what_will_ship_in_int8_is_timed_in_int8(nets: Path, tmp_path: Path) -> None:
    source = Source(f"{nets}/net.py:build", inputs=parse_inputs((TINY_INPUT,)))
    bench = Bench(tmp_path, tmp_path / "tables", 1, 1, silent, "int8")
    whole = bench.exported(load_source(source), "whole")

    operators = [node.op_type for node in read_graph(load_artifact(whole).model_path).graph.node]
    assert "QuantizeLinear" not in operators
    found = bench.compare(whole, whole)
    assert found.where == "ort-cpu in int8"
    assert found.check(2.0).name.startswith("latency on ort-cpu in int8, of the original's")
    timed = load_artifact(quantized_name(whole))
    assert "QuantizeLinear" in [n.op_type for n in read_graph(timed.model_path).graph.node]
