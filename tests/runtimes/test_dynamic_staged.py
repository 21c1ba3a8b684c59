"""Stages one after the other: who leaves where, and what goes on, against an independent count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.core.errors import BadInputError
from deploykit.runtimes.dynamic.record import StageRecord, Stages, Tensor
from deploykit.runtimes.dynamic.rules import CONFIDENCE, PATIENCE, probabilities
from deploykit.runtimes.dynamic.staged import Answer, run_stages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_CLASSES = 4


class _Net:
    """Three stages of random matrices; samples lie in the second dimension of what passes."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.steps = [draw.normal(size=(6, 6)) for _ in range(3)]
        self.heads = [3 * draw.normal(size=(6, _CLASSES)) for _ in range(3)]
        self.counts: list[list[int]] = [[], [], []]

    def stage(
        self, number: int, feeds: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        here = feeds["x"] if number == 0 else feeds[f"h{number}"].T
        self.counts[number].append(len(here))
        after = np.tanh(here @ self.steps[number])
        found = {f"e{number}": after @ self.heads[number]}
        if number < 2:
            found[f"h{number + 1}"] = after.T
        return found

    def all_exits(self, x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        found = []
        for step, head in zip(self.steps, self.heads, strict=True):
            x = np.tanh(x @ step)
            found.append(x @ head)
        return found


def _record(rule: str, first: float | None, second: float | None) -> Stages:
    between = [Tensor("h1", 1), Tensor("h2", 1)]
    return Stages(
        rule,
        (
            StageRecord("a.onnx", "e0", (Tensor("x", 0),), (between[0],), first, 2.0),
            StageRecord("b.onnx", "e1", (between[0],), (between[1],), second),
            StageRecord("c.onnx", "e2", (between[1],)),
        ),
    )


def _run(record: Stages, count: int = 37) -> tuple[_Net, NDArray[np.float64], Answer]:
    net = _Net()
    x = np.random.default_rng(1).normal(size=(count, 6))
    stages = [lambda feeds, number=number: net.stage(number, feeds) for number in range(3)]
    return net, x, run_stages(record, stages, {"x": x})


def test_every_sample_gets_the_logits_of_the_first_exit_that_is_sure() -> None:
    net, x, answer = _run(_record(CONFIDENCE, 0.6, 0.7))
    wanted = net.all_exits(x)
    sure = [probabilities(wanted[0], 2.0).max(1) >= 0.6, probabilities(wanted[1]).max(1) >= 0.7]
    place = np.where(sure[0], 0, np.where(sure[1], 1, 2))
    assert len(set(place.tolist())) == 3
    np.testing.assert_array_equal(answer.exits, place)
    rows = np.arange(len(x))
    assert np.allclose(answer.logits, np.stack(wanted)[place, rows], rtol=1e-12)
    # Nothing is computed for samples that have left.
    left = [37, int((place > 0).sum()), int((place > 1).sum())]
    assert [sum(one) for one in net.counts] == left


def test_no_stage_runs_once_all_have_left() -> None:
    net, _, answer = _run(_record(CONFIDENCE, 0.0, 0.5))
    assert net.counts == [[37], [], []]
    assert set(answer.exits.tolist()) == {0}


def test_an_exit_without_a_threshold_lets_nobody_leave() -> None:
    net, x, answer = _run(_record(CONFIDENCE, None, None))
    assert set(answer.exits.tolist()) == {2}
    assert np.allclose(answer.logits, net.all_exits(x)[2], rtol=1e-12)


def test_patience_counts_what_earlier_exits_said_of_the_same_samples() -> None:
    net, x, answer = _run(_record(PATIENCE, None, 2.0))
    first, second, _ = (one.argmax(1) for one in net.all_exits(x))
    np.testing.assert_array_equal(answer.exits, np.where(first == second, 1, 2))
    assert 0 < (first == second).sum() < len(x)


@pytest.mark.parametrize(
    ("rule", "thresholds"),
    [
        (CONFIDENCE, (0.6, 0.7)), ("margin", (0.5, 0.5)), ("entropy", (0.5, 0.4)),
        (PATIENCE, (None, 2.0)), (PATIENCE, (1.0, 2.0)), (CONFIDENCE, (None, 0.7)),
    ],
)  # fmt: skip
def test_one_sample_alone_leaves_where_it_does_in_company(
    rule: str, thresholds: tuple[float | None, float | None]
) -> None:
    net, record = _Net(), _record(rule, *thresholds)
    stages = [lambda feeds, number=number: net.stage(number, feeds) for number in range(3)]
    x = np.random.default_rng(1).normal(size=(37, 6))
    together = run_stages(record, stages, {"x": x})
    alone = [run_stages(record, stages, {"x": x[k : k + 1]}) for k in range(37)]
    np.testing.assert_array_equal(np.concatenate([one.exits for one in alone]), together.exits)
    assert np.allclose(np.concatenate([one.logits for one in alone]), together.logits)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"file": "../a.onnx"}, "'../a.onnx' is not beside the record"),
        ({"file": "b\\a.onnx"}, "is not beside the record"),
        ({"threshold": 1.5}, "a threshold of confidence is from 0 to 1, not 1.5"),
        ({"temperature": 0.0}, "the temperature of e is above 0, not 0"),
    ],
)
def test_a_record_that_cannot_be_run_is_refused(change: dict[str, object], text: str) -> None:
    fields = {"file": "a.onnx", "exit": "e", "takes": (Tensor("x", 0),)} | change
    with pytest.raises(BadInputError) as caught:
        Stages(CONFIDENCE, (StageRecord(**fields),))  # type: ignore[arg-type]
    assert text in str(caught.value)


def test_a_record_without_stages_is_refused() -> None:
    with pytest.raises(BadInputError, match="no stages"):
        Stages(CONFIDENCE, ())
