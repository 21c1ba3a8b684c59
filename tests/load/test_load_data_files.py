"""Folders of images and `.npz` files, good and bad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from deploykit.core.errors import BadInputError
from deploykit.load.datasets import open_data

if TYPE_CHECKING:
    from pathlib import Path


def _image(path: Path, width: int = 6, height: int = 4, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/b.png", "cat/a.png", "ant/deep/0.PNG"):
        _image(tmp_path / "images" / name)
    (tmp_path / "images" / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_sub_folders_are_classes_in_order_of_their_names(folder: Path) -> None:
    data = open_data("images", folder)
    batch = data.batch([0, 1, 2])

    assert data.labels == ("ant", "cat")
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 1, 1]
    assert batch.inputs["x"].shape == (3, 3, 4, 6)
    assert batch.inputs["x"].dtype == np.float32
    expected = np.arange(72).reshape(4, 6, 3).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(batch.inputs["x"][0], expected, rtol=1e-6)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    _image(tmp_path / "flat" / "1.png", mode="L")
    data = open_data("flat?color=L&mean=0.5&std=0.25", tmp_path)

    assert data.labels == ()
    assert data.batch([0]).labels is None
    expected = (np.arange(24).reshape(4, 6) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(data.batch([0]).inputs["x"][0, 0], expected, rtol=1e-5)


def test_resize_and_crop_keep_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40), dtype=np.uint8)
    pixels[:, 15:25] = 255
    (tmp_path / "flat").mkdir()
    Image.fromarray(pixels).save(tmp_path / "flat" / "wide.png")
    data = open_data("flat?color=L&resize=10&crop=10x4", tmp_path)

    images = data.batch([0]).inputs["x"]
    assert images.shape == (1, 1, 10, 4)
    assert (np.asarray(images, dtype=np.float32) > 0.9).all()
    assert data.preprocessing is not None
    assert (data.preprocessing.resize, data.preprocessing.crop) == (10, (10, 4))


def test_mean_and_std_are_by_channel(folder: Path) -> None:
    plain = open_data("images", folder).batch([0]).inputs["x"].astype(np.float64)
    done = open_data("images?mean=0.1,0.2,0.3&std=1,2,4", folder).batch([0]).inputs["x"]

    mean, std = np.reshape([0.1, 0.2, 0.3], (3, 1, 1)), np.reshape([1, 2, 4], (3, 1, 1))
    np.testing.assert_allclose(done.astype(np.float64), (plain - mean) / std, rtol=1e-5, atol=1e-6)


def test_digests_follow_files_classes_and_preprocessing(folder: Path) -> None:
    whole = open_data("images", folder).digest()
    assert open_data("images", folder).digest() == whole
    assert open_data("images?crop=2", folder).digest() != whole
    assert open_data("images[:1]", folder).digest() != whole
    some = open_data("images[1:]", folder).digest()
    _image(folder / "images" / "ant" / "deep" / "0.PNG", width=8)

    assert open_data("images", folder).digest() != whole
    assert open_data("images[1:]", folder).digest() == some


def test_a_slice_of_a_folder_keeps_its_classes(folder: Path) -> None:
    data = open_data("images[1:2]", folder)

    assert (len(data), data.labels, data.name) == (1, ("ant", "cat"), "images[1:2]")
    labels = data.batch([0]).labels
    assert labels is not None
    assert labels.tolist() == [1]


def test_an_unreadable_image_is_named_when_it_is_asked_for(folder: Path) -> None:
    path = folder / "images" / "cat" / "b.png"
    path.write_bytes(path.read_bytes()[:40])
    data = open_data("images", folder)

    assert data.batch([0, 1]).inputs["x"].shape[0] == 2
    with pytest.raises(BadInputError, match=r"cannot read the image .*cat/b\.png"):
        data.batch([2])
    path.write_bytes(b"GIF or what")
    with pytest.raises(BadInputError, match=r"cannot read the image .*cat/b\.png"):
        data.batch([2])


@pytest.mark.parametrize("most", [15, 9])  # Pillow warns above, and raises above twice as much
def test_a_decompression_bomb_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)

    with pytest.raises(BadInputError, match=r"0\.PNG is too large to decode safely"):
        open_data("images", folder).batch([0])


def test_more_than_8_bits_are_not_clipped_silently(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    deep = np.full((4, 4), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "flat" / "deep.png")

    with pytest.raises(BadInputError, match=r"deep\.png has more than 8 bits a channel"):
        open_data("flat", tmp_path).batch([0])


def test_images_of_unequal_sizes_say_how_to_mend_it(folder: Path) -> None:
    _image(folder / "images" / "cat" / "a.png", width=9)

    with pytest.raises(BadInputError, match=r"a\.png is 4x9 and ant/deep/0\.PNG is 4x6; make them"):
        open_data("images", folder).batch([0, 1])
    with pytest.raises(BadInputError, match="is 4x6, less than the crop of 5x5; give a larger"):
        open_data("images?crop=5", folder).batch([0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("resise=4", "has no option 'resise'; did you mean 'resize'"),
        ("resize=-1", "resize is '-1'; write pixels like 224"),
        ("resize=4x4", "resize is the shorter side, one number"),
        ("crop=0", "crop is '0'; write pixels"),
        ("crop=1x2x3", "crop is '1x2x3'; write pixels"),
        ("mean=a", "mean is 'a'; write numbers like"),
        ("mean=nan&std=1", "mean is 'nan'; write numbers like"),
        ("mean=0.5", "give mean and std together"),
        ("mean=0,0&std=1", "mean has 2 numbers for 3 channels"),
        ("mean=0&std=0", "std must be above 0"),
        ("color=BGR", "color is 'BGR'; write RGB or L"),
    ],
)
def test_bad_options_are_named(folder: Path, options: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        open_data(f"images?{options}", folder)


def test_folders_that_make_no_sense_are_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(BadInputError, match="empty has no images"):
        open_data("empty", folder)
    (folder / "images" / "dog").mkdir()
    with pytest.raises(BadInputError, match=r"class 'dog' of .* has no images: add some"):
        open_data("images", folder)
    _image(folder / "images" / "stray.png")
    with pytest.raises(BadInputError, match=r"has images beside its sub-folders \(stray\.png\)"):
        open_data("images", folder)


@pytest.mark.parametrize("key", ["labels", "label", "y", "targets"])
def test_npz_labels_by_any_of_their_names(tmp_path: Path, key: str) -> None:
    arrays: dict[str, Any] = {key: np.arange(3)}
    np.savez(tmp_path / "d.npz", ids=np.zeros((3, 2)), mask=np.ones((3, 2)), **arrays)
    batch = open_data("d.npz", tmp_path).batch([2])

    assert list(batch.inputs) == ["ids", "mask"]
    assert batch.labels is not None
    assert batch.labels.tolist() == [2]


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"

    def refused(message: str, **arrays: Any) -> None:
        np.savez(path, **arrays)
        with pytest.raises(BadInputError, match=message):
            open_data("d.npz", tmp_path)

    refused("arrays of unequal lengths: x 3, y 2", x=np.zeros((3, 1)), y=np.zeros(2))
    refused("has labels twice: y, labels", x=np.zeros(2), y=np.zeros(2), labels=np.zeros(2))
    refused("has only 'y': there must be an array of inputs", y=np.zeros(2))
    refused("has no arrays")
    refused("has no samples", x=np.zeros((0, 2)))
    refused("'x' is a single number", x=np.zeros(()))
    refused("'x' is of type <U1; store numbers", x=np.array(["a"]))
    refused("d.npz is no .npz file of numbers, or cut off; save it", x=np.array([None, 1]))

    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadInputError, match=r"d\.npz is no \.npz file of numbers, or cut off"):
        open_data("d.npz", tmp_path)
    np.save(tmp_path / "e.npy", np.zeros(3))
    (tmp_path / "e.npy").rename(tmp_path / "e.npz")
    with pytest.raises(BadInputError, match=r"is a single array; save it with np\.savez"):
        open_data("e.npz", tmp_path)


def test_npz_digest_does_not_depend_on_how_it_was_stored(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "a.npz", x=x)
    np.savez_compressed(tmp_path / "b.npz", x=np.asfortranarray(x))
    np.savez(tmp_path / "c.npz", x=x.reshape(3, 1, 2))
    first, second, other = (open_data(f"{n}.npz", tmp_path).digest() for n in "abc")

    assert first == second != other
