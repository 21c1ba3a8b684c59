"""Every augmentation against what it says, on images made for it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deploykit.core.errors import BadInputError
from deploykit.core.types import Preprocessing
from deploykit.train.augment import augment
from deploykit.train.draws import Draws
from deploykit.train.mix import mixed, partners
from deploykit.train.options import TrainOptions
from deploykit.train.pixels import Pixels

UNKNOWN = Pixels.of(None)
KNOWN = Pixels.of(Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5)))


def _draws(total: int, seed: int = 0, **share: int) -> Draws:
    return Draws.of(seed, total=total, **share)


def test_every_crop_is_a_window_of_the_image_on_black() -> None:
    images = torch.rand(40, 2, 6, 5, generator=torch.Generator().manual_seed(0)) + 1
    black = torch.tensor([-1.0, -2.0]).reshape(2, 1, 1)
    found = augment(
        images, TrainOptions(crop=2), Pixels(-black, torch.ones(2, 1, 1), known=True), _draws(40)
    )

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
    found = augment(images, TrainOptions(flip=True), UNKNOWN, _draws(400))

    mirrored = (found[:, 0, 0, 0] == 2).sum().item()
    assert 150 < mirrored < 250
    assert torch.equal(found.sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3)))


def test_augmentation_follows_its_generator_and_can_be_left_out() -> None:
    images = torch.rand(8, 1, 6, 6)
    options = TrainOptions(crop=1, flip=True)
    first, again, other = (augment(images, options, UNKNOWN, _draws(8, s)) for s in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert augment(images, TrainOptions(), UNKNOWN, _draws(8)) is images
    with pytest.raises(BadInputError, match="crop and flip: only images of shape"):
        augment(images[0, 0], options, UNKNOWN, _draws(6))


def test_black_is_zero_after_normalisation() -> None:
    done = Preprocessing(mean=(0.5, 0.2, 0.1), std=(0.5, 0.1, 0.2))

    torch.testing.assert_close(Pixels.of(done).black.flatten(), torch.tensor([-1.0, -2.0, -0.5]))
    assert UNKNOWN.black.item() == 0
    pixels = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(KNOWN.raw(KNOWN.normalised(pixels)), pixels)


def test_a_zoom_shows_a_window_of_the_image() -> None:
    # A ramp along both axes: the value at a place says which place it was.
    ramp = torch.linspace(-1, 1, 32)
    images = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32)]).expand(64, 2, 32, 32)
    found = augment(images, TrainOptions(zoom=0.25), UNKNOWN, _draws(64))

    widths = found[:, 0, 0, -1] - found[:, 0, 0, 0]
    heights = found[:, 1, -1, 0] - found[:, 1, 0, 0]
    areas = widths * heights / 4  # of the whole, whose sides are 2
    assert areas.min() > 0.15
    assert areas.max() < 1.01
    assert areas.std() > 0.1
    assert (found.abs() <= 1).all()
    # Windows are rectangles: every row shows the same columns.
    torch.testing.assert_close(found[:, 0, 3], found[:, 0, 20], atol=1e-5, rtol=0)


def test_jitter_of_nothing_but_brightness_is_a_factor() -> None:
    grey = torch.full((200, 3, 2, 2), 0.4)
    found = KNOWN.raw(augment(KNOWN.normalised(grey), TrainOptions(jitter=0.5), KNOWN, _draws(200)))

    # A flat grey image has neither contrast nor saturation.
    factors = found[:, 0, 0, 0] / 0.4
    torch.testing.assert_close(found, found[:, :1, :1, :1].expand_as(found), atol=1e-5, rtol=0)
    assert 0.5 <= factors.min() < 0.6
    assert 1.4 < factors.max() <= 1.5
    with pytest.raises(BadInputError, match="the data does not say how they were normalised"):
        augment(grey, TrainOptions(jitter=0.5), UNKNOWN, _draws(200))


def test_erased_is_one_rectangle_of_black() -> None:
    images = KNOWN.normalised(torch.ones(300, 3, 20, 20))
    found = KNOWN.raw(augment(images, TrainOptions(erase=0.5), KNOWN, _draws(300)))

    black = (found.abs() < 1e-5).all(dim=1)
    erased = black.flatten(1).any(dim=1)
    assert 100 < int(erased.sum()) < 200
    for mask in black[erased]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns)
        assert 0 < mask.float().mean() < 0.5


@pytest.mark.parametrize("option", ["crop", "flip", "zoom", "jitter", "erase"])
def test_processes_draw_what_one_would(option: str) -> None:
    value = {"crop": 2, "flip": True, "zoom": 0.3, "jitter": 0.3, "erase": 1.0}[option]
    options = TrainOptions(**{option: value})  # type: ignore[arg-type]  # a field's name and value
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = augment(images, options, KNOWN, _draws(12))
    halves = [
        augment(images[first : first + 6], options, KNOWN, _draws(12, first=first, count=6))
        for first in (0, 6)
    ]

    torch.testing.assert_close(torch.cat(halves), whole, atol=0, rtol=0)


def test_partners_are_neighbours() -> None:
    assert partners(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]
    assert partners(torch.arange(5)).tolist() == [1, 0, 3, 2, 4]
    assert partners(torch.arange(4).reshape(4, 1)).tolist() == [[1], [0], [3], [2]]


@given(st.integers(0, 10_000))
def test_mixup_is_a_sum_whose_labels_have_the_same_shares(seed: int) -> None:
    images, labels = torch.arange(8.0).reshape(4, 2), torch.arange(4)
    (found,), (mine, theirs) = mixed((images,), labels, TrainOptions(mixup=0.4), _draws(4, seed))

    assert mine.share + theirs.share == pytest.approx(1)
    torch.testing.assert_close(
        found, mine.share * images + theirs.share * images[[1, 0, 3, 2]], atol=1e-5, rtol=1e-5
    )
    assert (mine.labels.tolist(), theirs.labels.tolist()) == ([0, 1, 2, 3], [1, 0, 3, 2])


@given(st.integers(0, 10_000))
def test_cutmix_counts_the_pixels_of_each(seed: int) -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 9, 7)
    (found,), (mine, theirs) = mixed(
        (images,), torch.arange(4), TrainOptions(cutmix=1.0), _draws(4, seed)
    )

    assert (found[0] == 0).float().mean().item() == pytest.approx(mine.share)
    assert (found[0] == 1).float().mean().item() == pytest.approx(theirs.share)
    assert torch.equal(found[2] == 3, found[0] == 1)


def test_with_both_each_batch_is_mixed_in_one_way() -> None:
    images = torch.arange(2.0)[:, None, None, None].expand(2, 1, 16, 16)
    options = TrainOptions(mixup=1.0, cutmix=1.0)
    kinds = set()
    for seed in range(20):
        (found,), _ = mixed((images,), torch.arange(2), options, _draws(2, seed))
        kinds.add(bool(((found == 0) | (found == 1)).all()))
    assert kinds == {True, False}


def test_what_cannot_be_mixed_is_named() -> None:
    tokens, labels = torch.zeros(4, 6, dtype=torch.int64), torch.arange(4)
    with pytest.raises(BadInputError, match=r"mixup adds inputs up, .* \(torch.int64\)"):
        mixed((tokens,), labels, TrainOptions(mixup=0.2), _draws(4))
    with pytest.raises(BadInputError, match=r"cutmix is for networks of one input of images"):
        mixed((tokens,), labels, TrainOptions(cutmix=0.2), _draws(4))
    (same,), (target,) = mixed((tokens,), labels, TrainOptions(), _draws(4))
    assert same is tokens
    assert (target.labels is labels, target.share) == (True, 1.0)
