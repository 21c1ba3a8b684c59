"""Fashion-MNIST: the format, the splits, and the compact set as a part of the whole."""

from __future__ import annotations

import gzip
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.core.errors import BadInputError
from deploykit.load import fashion_mnist as module
from deploykit.load.datasets import open_data
from deploykit.load.fashion_mnist import (
    COMPACT_FILE,
    fashion_mnist,
    fashion_mnist_compact,
    fashion_mnist_full,
    read_idx,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def _write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def whole() -> None:
    """Skip where the whole set is not installed, unless it is required."""
    if module.whole_folder() is None:
        if "fashion-mnist" in os.environ.get("DEPLOYKIT_REQUIRE", ""):
            pytest.fail("DEPLOYKIT_REQUIRE names fashion-mnist and it is not installed")
        pytest.skip("the whole of Fashion-MNIST is not installed")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No whole set, wherever one may look."""
    monkeypatch.setattr(module, "DEBIAN_FOLDER", tmp_path / "not-installed")
    monkeypatch.delenv("DEPLOYKIT_DATA", raising=False)
    return tmp_path


def test_idx_is_read_as_it_was_written(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    _write_idx(tmp_path / "x.gz", array)

    np.testing.assert_array_equal(read_idx(tmp_path / "x.gz", dimensions=3), array)


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    _write_idx(path, np.zeros((2, 3), dtype=np.uint8))
    with pytest.raises(BadInputError, match="not an IDX file of bytes with 3 dimensions"):
        read_idx(path, dimensions=3)
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(BadInputError, match="cannot read"):
        read_idx(path, dimensions=2)
    path.write_bytes(gzip.compress(gzip.decompress(good)[:-1]))
    with pytest.raises(BadInputError, match=r"says \[2, 3\] and holds 5 values"):
        read_idx(path, dimensions=2)
    path.write_bytes(b"not gzip")
    with pytest.raises(BadInputError, match="cannot read"):
        read_idx(path, dimensions=2)


def test_own_folder_comes_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = nowhere / "fashion-mnist"
    folder.mkdir()
    for stem, count in (("train", 55_003), ("t10k", 4)):
        _write_idx(folder / f"{stem}-images-idx3-ubyte.gz", np.ones((count, 2, 2), np.uint8))
        labels = (np.arange(count) % 10).astype(np.uint8)
        _write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", labels)
    monkeypatch.setenv("DEPLOYKIT_DATA", str(nowhere))

    assert [len(fashion_mnist(split)) for split in ("train", "val", "test")] == [55_000, 3, 4]
    assert fashion_mnist("val").targets.tolist() == [0, 1, 2]
    assert fashion_mnist("val").name == "fashion-mnist-full:val"


def test_without_the_whole_set_the_compact_one_serves_and_says_so(nowhere: Path) -> None:
    assert fashion_mnist("val").name == "fashion-mnist-compact:val"
    assert open_data("fashion-mnist:test[:5]").name == "fashion-mnist-compact:test[:5]"
    with pytest.raises(BadInputError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist_full("test")


def test_without_any_set_both_ways_out_are_named(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPACT_FILE", nowhere / "gone.npz")

    with pytest.raises(BadInputError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist("test")
    with pytest.raises(BadInputError, match=r"there is no .*gone\.npz"):
        fashion_mnist_compact("test")


def test_a_damaged_compact_set_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nowhere / "cut.npz"
    path.write_bytes(COMPACT_FILE.read_bytes()[:100_000])
    monkeypatch.setattr(module, "COMPACT_FILE", path)

    with pytest.raises(BadInputError, match=r"cut\.npz is damaged: git checkout it"):
        fashion_mnist_compact("test")


@pytest.mark.parametrize(("split", "count"), [("train", 7000), ("val", 1000), ("test", 2000)])
def test_the_compact_set_is_balanced_and_normalised(split: str, count: int) -> None:
    data = fashion_mnist_compact(split)

    assert np.bincount(data.targets).tolist() == [count // 10] * 10
    images = data.batch(range(count)).inputs["x"]
    assert images.shape == (count, 1, 28, 28)
    assert images.dtype == np.float32
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02
    assert data.labels[9] == "Ankle boot"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_compact_set_is_a_part_of_the_same_split(whole: None, split: str) -> None:
    full, compact = fashion_mnist_full(split), fashion_mnist_compact(split)
    with np.load(COMPACT_FILE, allow_pickle=False) as arrays:
        rows = arrays[f"{split}_rows"]

    np.testing.assert_array_equal(compact.pixels, full.pixels[rows])
    np.testing.assert_array_equal(compact.targets, full.targets[rows])
    assert len(set(rows.tolist())) == len(rows)


def test_the_whole_set_has_its_known_sizes(whole: None) -> None:
    counts = {split: len(fashion_mnist_full(split)) for split in ("train", "val", "test")}

    assert counts == {"train": 55_000, "val": 5_000, "test": 10_000}
    # The first labels of the published test file.
    assert fashion_mnist_full("test").targets[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_pixels_are_scaled_then_normalised() -> None:
    data = fashion_mnist_compact("test")
    expected = (data.pixels[7].astype(np.float64) / 255 - 0.2860) / 0.3530

    np.testing.assert_allclose(data.batch([3, 7]).inputs["x"][1], expected, rtol=1e-5, atol=1e-6)
