"""Pruning with a machine made up: a latency that is aimed at, kept, or never handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deploykit.bench.layer_shapes import LayerShape
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.core.report import Verdict
from deploykit.flow.prune import work
from deploykit.flow.prune.latency import Bench
from deploykit.flow.side_by_side import SideBySide

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.core.types import Model
    from tests.flow.conftest import Prune

WHOLE_NS = 1e6
TUNED: dict[str, Any] = {
    "train": "digits:train[:64]", "val": "digits:val[:40]",
    "tuning": {"epochs": 1, "batch_size": 32},
}  # fmt: skip


class Table:
    """Every layer takes as long as it has products of channels."""

    def __init__(self, layers: Mapping[str, LayerShape]) -> None:
        self.layers = layers

    def predict(self, counts: Mapping[str, tuple[int, int]]) -> float:
        full = {name: (shape.inputs, shape.outputs) for name, shape in self.layers.items()}
        return float(sum(a * b for a, b in ({**full, **counts}).values()))


class Machine(Bench):
    """Nothing is exported or run: a latency is an offset and the second convolution's size."""

    slow = 0.0
    compared: list[bool]

    def exported(self, model: Model, name: str) -> Path:
        size = model.module.get_parameter("conv2.weight").numel()
        place = self.folder / f"{name}-{size}"
        place.mkdir(exist_ok=True)
        return place

    def compare(self, whole: Path, part: Path, *, careful: bool = False) -> SideBySide:
        sizes = [int(place.name.rpartition("-")[2]) for place in (whole, part)]
        share = self.slow + sizes[1] / sizes[0]
        self.compared.append(careful)
        return SideBySide(WHOLE_NS, WHOLE_NS * share, share, share * 0.99, share * 1.01)

    def layers(self, whole: Path) -> dict[str, LayerShape]:
        plain = {"spatial": (8, 8), "kernel": (3, 3), "stride": (1, 1), "padding": (1,) * 4,
                 "dilation": (1, 1)}  # fmt: skip
        return {
            "conv1.weight": LayerShape("conv", 1, 8, **plain),  # type: ignore[arg-type]  # its fields
            "conv2.weight": LayerShape("conv", 8, 16, **plain),  # type: ignore[arg-type]  # likewise
        }

    def table(self, layers: Mapping[str, LayerShape]) -> Table:  # type: ignore[override]  # all that is asked of it
        return Table(layers)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[Machine]:
    class Fresh(Machine):
        slow = 0.0
        compared: list[bool] = []  # noqa: RUF012  (of one test)

    monkeypatch.setattr(work, "Bench", Fresh)
    return Fresh


ANY_COUNT = {"align": "1"}


def test_a_latency_is_kept_and_what_it_came_to_is_remembered(
    prune: Prune, machine: type[Machine]
) -> None:
    result = prune(measure=True, latency="0.6x", changes=ANY_COUNT)
    check = result.report.checks[0]

    assert check.verdict is Verdict.PASSED
    assert check.value is not None
    assert 0.5 <= check.value <= 0.6 == check.limit
    assert check.name == "latency on ort-cpu, of the original's 1 ms"
    assert result.pruning.aim == "a latency of 0.6x"
    assert machine.compared[-1]  # carefully, at the end
    assert all(check.name != "macs left" for check in result.report.checks)

    machine.compared.clear()
    again = prune("again", measure=True, latency="0.6x", changes=ANY_COUNT)
    assert machine.compared == [True]
    assert again.pruning.groups == result.pruning.groups


def test_a_time_is_held_against_the_originals(prune: Prune, machine: type[Machine]) -> None:
    check = prune(measure=True, latency="0.5ms", changes=ANY_COUNT).report.checks[0]

    assert check.limit == 0.5
    assert check.verdict is Verdict.PASSED


def test_a_time_that_is_met_already_needs_no_pruning(
    prune: Prune, machine: type[Machine], nets: Path
) -> None:
    with pytest.raises(BadInputError) as caught:
        prune(measure=True, latency="2ms", changes=ANY_COUNT)
    assert str(caught.value) == ("the network takes 1 ms, within 2ms already: ask for less time")
    assert not (nets / "out").exists()


def test_a_latency_out_of_reach_is_missed_by_as_little_as_can_be(
    prune: Prune, machine: type[Machine]
) -> None:
    machine.slow = 0.2
    result = prune(measure=True, latency="0.1x", changes=ANY_COUNT)
    check = result.report.checks[0]

    assert (check.verdict, check.limit) == (Verdict.FAILED, 0.1)
    assert check.advice == "this is the closest that the limits allow"
    assert {row.kept for row in result.pruning.groups if not row.refused} == {1, 2}


def test_what_is_slower_is_never_written(prune: Prune, machine: type[Machine], nets: Path) -> None:
    machine.slow = 0.7
    with pytest.raises(CheckFailedError) as caught:
        prune(measure=True, changes=ANY_COUNT)
    assert str(caught.value).startswith(
        "pruning does not help here: cut to 0.5x of its macs the network takes 1."
    )
    assert not (nets / "out").exists()


def test_what_is_clearly_slower_is_not_trained_first(
    prune: Prune, machine: type[Machine], nets: Path
) -> None:
    machine.slow = 0.9
    said: list[str] = []
    with pytest.raises(CheckFailedError, match=r"^pruning does not help here: "):
        prune(measure=True, changes=ANY_COUNT, progress=lambda text, _: said.append(text), **TUNED)
    assert not any("epoch" in text for text in said)
    assert machine.compared == [False]
    assert not (nets / "out").exists()


def test_an_aim_that_only_makes_it_slower_ends_before_training(
    prune: Prune, machine: type[Machine], nets: Path
) -> None:
    machine.slow = 1.0
    said: list[str] = []

    def tell(text: str, share: float | None) -> None:
        said.append(text)

    with pytest.raises(CheckFailedError) as caught:
        prune(measure=True, latency="0.5x", changes=ANY_COUNT, progress=tell, **TUNED)
    assert "cut to a latency of 0.5x the network takes 1." in str(caught.value)
    assert not any("epoch" in text for text in said)
    assert not (nets / "out").exists()


def test_rounds_to_a_latency_are_measured_before_and_after_them_only(
    prune: Prune, machine: type[Machine]
) -> None:
    result = prune(measure=True, latency="0.5x", rounds=2, changes=ANY_COUNT, **TUNED)

    assert len(result.pruning.rounds) == 2
    assert result.report.checks[0].verdict is Verdict.PASSED
    assert machine.compared[-2:] == [True, True]  # the plan's last try, and the end
