"""Options, schedule and the order of the samples."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import numpy as np
import pytest
import torch

from deploykit.core.errors import BadInputError
from deploykit.load.arrays import ArrayData
from deploykit.train import samples as samples_module
from deploykit.train.options import TrainOptions
from deploykit.train.samples import Batches, InOrder, Samples, loader
from deploykit.train.schedule import learning_rate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, not 0"),
        ({"batch_size": -1}, "batch_size must be 1 or more, not -1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"momentum": 1.0}, "momentum must be from 0 to below 1, not 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be from 0 to below 1"),
        ({"warmup": 1.5}, "warmup must be from 0 to below 1, not 1.5"),
        ({"crop": -1}, "crop must be 0 or more, not -1"),
        ({"weight_decay": -1e-4}, "weight_decay must be 0 or more"),
        ({"weight_decay": float("nan")}, "weight_decay must be 0 or more, not nan"),
        ({"optimizer": "sdg"}, "optimizer 'sdg' is unknown; did you mean 'sgd'"),
        ({"schedule": "onecycle"}, "schedule 'onecycle' is unknown; did you mean 'one-cycle'"),
        ({"patience": -1}, "patience must be 0 or more, not -1"),
        ({"precision": "float16"}, "precision 'float16' is unknown; did you mean 'bfloat16'"),
        ({"precision": "half"}, "precision 'half' is unknown; known: bfloat16, float32"),
        ({"accumulate": 0}, "accumulate must be 1 or more, not 0"),
        ({"clip_norm": -1.0}, "clip_norm must be 0 or more, not -1.0"),
        ({"average": 1.0}, "average must be from 0 to below 1, not 1.0"),
        ({"erase": 1.5}, "erase must be from 0 to 1, not 1.5"),
        ({"workers": -1}, "workers must be 0 or more, not -1"),
        ({"loss": ("mes",)}, "loss 'mes' is unknown; did you mean 'mse'"),
        ({"loss": ("net.py:loss", "mse")}, "loss net.py:loss takes all outputs at once"),
        ({"loss": ("mse",), "loss_weights": (1.0, 2.0)}, "loss_weights has 2 numbers and loss 1"),
        ({"loss": ("mse",), "loss_weights": (-1.0,)}, "loss_weights must be 0 or more, not -1.0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        TrainOptions(**options)


def test_one_cycle_goes_up_and_down_in_straight_lines() -> None:
    options = TrainOptions(learning_rate=2.0, warmup=0.3)
    rates = [learning_rate(options, step, 10) for step in range(10)]

    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 1.75])
    np.testing.assert_allclose(np.diff(rates[3:]), -0.25)
    np.testing.assert_allclose(rates[-1], 0.25)


def test_cosine_is_loshchilov_and_hutters_equation_5() -> None:
    options = TrainOptions(learning_rate=2.0, warmup=0.0, schedule="cosine")
    rates = [learning_rate(options, step, 8) for step in range(8)]

    np.testing.assert_allclose(rates, [1 + cos(pi * (step + 1) / 9) for step in range(8)])


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.99])
def test_no_rate_is_wasted_or_above_the_peak(schedule: str, warmup: float) -> None:
    options = TrainOptions(learning_rate=0.1, warmup=warmup, schedule=schedule)
    for steps in (1, 2, 7, 100):
        rates = [learning_rate(options, step, steps) for step in range(steps)]
        assert all(0 < rate <= 0.1 for rate in rates)


def _data(count: int) -> ArrayData:
    return ArrayData("made", {"x": np.arange(count, dtype=np.float32)[:, None]}, np.arange(count))


def _order(count: int, size: int, seed: int, epoch: int, **share: int) -> list[list[int]]:
    batches = Batches(count, size, seed, **share)
    batches.begin(epoch)
    return list(batches)


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    samples = Samples(_data(12))
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        batches = Batches(12, 4, seed)
        batches.begin(epoch)
        orders.append([int(label) for _, labels in loader(samples, batches) for label in labels])

    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_an_epoch_goes_on_from_any_batch() -> None:
    batches = Batches(20, 4, 3)
    batches.begin(2)
    whole = list(batches)
    batches.begin(2, 3)

    assert list(batches) == whole[3:]
    assert len(batches) == 5  # of the whole epoch
    assert [batches.rows(2, number) for number in range(5)] == whole


def test_processes_share_each_batch() -> None:
    whole = _order(50, 12, 0, 1)
    shares = [_order(50, 12, 0, 1, processes=3, process=process) for process in range(3)]

    joined = [[*a, *b, *c] for a, b, c in zip(*shares, strict=True)]
    assert joined == whole
    judged = [list(InOrder(50, 12, processes=3, process=process)) for process in range(3)]
    assert sorted(row for part in judged for batch in part for row in batch) == list(range(50))


def test_a_batch_that_is_not_full_waits() -> None:
    assert [len(rows) for rows in _order(10, 4, 0, 0)] == [4, 4]
    assert [len(rows) for rows in InOrder(10, 4)] == [4, 4, 2]


def _values(samples: Samples) -> list[torch.Tensor]:
    return [x for x, _ in loader(samples, InOrder(len(samples), 4))]


def test_data_too_large_to_keep_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = _values(Samples(_data(10)))
    monkeypatch.setattr(samples_module, "MOST_KEPT_BYTES", 100)
    reads: list[int] = []

    class Counted(ArrayData):
        def batch(self, rows: Any) -> Any:
            reads.append(len(rows))
            return super().batch(rows)

    made = _data(10)
    samples = Samples(Counted(made.name, made.inputs, made.targets))
    for _ in range(2):
        read = _values(samples)
        assert all(torch.equal(a, b) for a, b in zip(kept, read, strict=True))
    assert reads == [1, 4, 4, 2, 4, 4, 2]


def test_processes_that_read_ahead_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "MOST_KEPT_BYTES", 100)
    samples = Samples(_data(40))
    batches = Batches(40, 8, 0)
    here = [x for x, _ in loader(samples, batches)]
    ahead = [x for x, _ in loader(samples, batches, workers=2)]

    assert not samples.is_kept
    assert all(torch.equal(a, b) for a, b in zip(here, ahead, strict=True))


def test_data_without_labels_is_refused() -> None:
    with pytest.raises(BadInputError, match="bare has no labels, and training needs them"):
        Samples(ArrayData("bare", {"x": np.zeros((2, 1))}))
