"""Options, schedule, augmentation and the order of the samples."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import numpy as np
import pytest
import torch

from deploykit.core.errors import BadInputError
from deploykit.core.types import Preprocessing
from deploykit.load.arrays import ArrayData
from deploykit.train import samples as samples_module
from deploykit.train.augment import augment, black_of
from deploykit.train.losses import cross_entropy
from deploykit.train.options import TrainOptions
from deploykit.train.samples import Samples, generator, in_order, shuffled
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


def test_every_crop_is_a_window_of_the_image_on_black() -> None:
    images = torch.rand(40, 2, 6, 5, generator=torch.Generator().manual_seed(0)) + 1
    black = torch.tensor([-1.0, -2.0]).reshape(2, 1, 1)
    found = augment(images, TrainOptions(crop=2), black, generator(0))

    padded = black.expand(40, 2, 10, 9).clone()
    padded[:, :, 2:8, 2:7] = images
    places = set()
    for number in range(40):
        windows = {
            (top, left): padded[number, :, top : top + 6, left : left + 5]
            for top in range(5)
            for left in range(5)
        }
        fits = [at for at, window in windows.items() if torch.allclose(window, found[number])]
        assert len(fits) == 1
        places.add(fits[0])
    assert len(places) > 12  # of 25


def test_about_half_of_the_images_are_mirrored() -> None:
    images = torch.arange(3.0).expand(400, 1, 2, 3)
    found = augment(images, TrainOptions(flip=True), torch.zeros(1, 1, 1), generator(0))

    mirrored = (found[:, 0, 0, 0] == 2).sum().item()
    assert 150 < mirrored < 250
    assert torch.equal(found.sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3)))


def test_augmentation_follows_its_generator_and_can_be_left_out() -> None:
    images = torch.rand(8, 1, 6, 6)
    options, black = TrainOptions(crop=1, flip=True), torch.zeros(1, 1, 1)
    first, again, other = (augment(images, options, black, generator(s)) for s in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert augment(images, TrainOptions(), black, generator(1)) is images
    with pytest.raises(BadInputError, match="crop and flip are for images of shape"):
        augment(images[0, 0], options, black, generator(1))


def test_black_is_zero_after_normalisation() -> None:
    done = Preprocessing(mean=(0.5, 0.2, 0.1), std=(0.5, 0.1, 0.2))

    torch.testing.assert_close(black_of(done).flatten(), torch.tensor([-1.0, -2.0, -0.5]))
    assert black_of(None).item() == 0


def _data(count: int) -> ArrayData:
    return ArrayData("made", {"x": np.arange(count, dtype=np.float32)[:, None]}, np.arange(count))


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    samples = Samples(_data(12))
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        batches = shuffled(samples, 4, seed)
        batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # our own sampler
        orders.append([int(label) for _, labels in batches for label in labels])

    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_batch_that_is_not_full_waits_and_small_data_is_one_batch() -> None:
    assert [len(labels) for _, labels in shuffled(Samples(_data(10)), 4, 0)] == [4, 4]
    assert [len(labels) for _, labels in shuffled(Samples(_data(3)), 4, 0)] == [3]
    assert [len(labels) for _, labels in in_order(Samples(_data(10)), 4)] == [4, 4, 2]


def test_data_too_large_to_keep_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [x for x, _ in in_order(Samples(_data(10)), 4)]
    monkeypatch.setattr(samples_module, "MOST_KEPT_BYTES", 100)
    reads: list[int] = []

    class Counted(ArrayData):
        def batch(self, rows: Any) -> Any:
            reads.append(len(rows))
            return super().batch(rows)

    made = _data(10)
    samples = Samples(Counted(made.name, made.inputs, made.targets))
    for _ in range(2):
        read = [x for x, _ in in_order(samples, 4)]
        assert all(torch.equal(a, b) for a, b in zip(kept, read, strict=True))
    assert reads == [1, 4, 4, 2, 4, 4, 2]


def test_data_that_cannot_be_learnt_from_is_refused() -> None:
    with pytest.raises(BadInputError, match="bare has no labels, and training needs them"):
        Samples(ArrayData("bare", {"x": np.zeros((2, 1))}))
    loss, net = cross_entropy(), torch.nn.Identity()
    with pytest.raises(BadInputError, match="labels go from 0 to 3 and the network has 3 classes"):
        loss(net, (torch.zeros(2, 3),), torch.tensor([0, 3]))
    with pytest.raises(BadInputError, match=r"one output of shape \[N, classes\], not \[2\]"):
        loss(net, (torch.zeros(2),), torch.tensor([0, 1]))
    with pytest.raises(BadInputError, match=r"whole-number labels of shape \[N\], not float32"):
        loss(net, (torch.zeros(2, 3),), torch.zeros(2))


def test_label_smoothing_is_a_mixture_of_two_cross_entropies() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    logs = logits.log_softmax(dim=1)[0]
    expected = -(0.9 * logs[0] + 0.1 * logs.mean())

    found = cross_entropy(0.1)(torch.nn.Identity(), (logits,), labels)
    torch.testing.assert_close(found, expected)
