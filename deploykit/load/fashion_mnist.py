"""Fashion-MNIST: 28x28 grey images of ten kinds of clothing, whole or as a compact set.

The whole set is Debian's `dataset-fashion-mnist`, or the same four files in
`$DEPLOYKIT_DATA/fashion-mnist`. The compact set comes with a checkout of deploykit, in
`models/data`. The splits, by row of the original files:

=======  ======================  =====================================================
split    whole                   compact
=======  ======================  =====================================================
train    first 55,000 of train   7,000 of the whole set's train, 700 a class
val      last 5,000 of train     1,000 of the whole set's val, 100 a class
test     all 10,000 of test      2,000 of them, 200 a class
=======  ======================  =====================================================

Each compact split is a part of the same split of the whole set, so that a network trained on one
may be judged on the other.

Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", 2017 (arXiv:1708.07747). The format is that of LeCun's MNIST files (IDX).
"""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import deploykit
from deploykit.core.errors import BadInputError, nearest
from deploykit.core.types import Preprocessing
from deploykit.load.pixels import PixelData

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Mean and standard deviation of all pixels of the 60,000 training images.
PREPROCESSING = Preprocessing(color="L", mean=(0.2860,), std=(0.3530,))
SPLITS = ("train", "val", "test")
TRAIN_ROWS = 55_000

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
COMPACT_FILE = Path(deploykit.__file__).parents[1] / "models" / "data" / "fashion_mnist_compact.npz"

_STEMS = {"train": "train", "val": "train", "test": "t10k"}
_IMAGES = "{}-images-idx3-ubyte.gz"
_LABELS = "{}-labels-idx1-ubyte.gz"
_UNSIGNED_BYTES = 0x08


def fashion_mnist(split: str = "test") -> PixelData:
    """The whole set where it is there, otherwise the compact one; `name` says which.

    Args:
        split: "train", "val" or "test".

    Raises:
        BadInputError: no such split, neither set is there, or a file is damaged.
    """
    if whole_folder() is None and COMPACT_FILE.is_file():
        return fashion_mnist_compact(split)
    return fashion_mnist_full(split)


def fashion_mnist_full(split: str = "test") -> PixelData:
    """The whole set; arguments and errors as in `fashion_mnist`."""
    _check_split(split)
    folder = whole_folder()
    if folder is None:
        raise BadInputError(
            "fashion-mnist is not on this machine: apt-get install dataset-fashion-mnist, or put "
            "its four .gz files into $DEPLOYKIT_DATA/fashion-mnist"
        )
    stem = _STEMS[split]
    images = read_idx(folder / _IMAGES.format(stem), dimensions=3)
    targets = read_idx(folder / _LABELS.format(stem), dimensions=1)
    if len(images) != len(targets):
        raise BadInputError(f"{folder} has {len(images)} {stem} images and {len(targets)} labels")
    rows = {"train": slice(TRAIN_ROWS), "val": slice(TRAIN_ROWS, None), "test": slice(None)}[split]
    return _data(f"fashion-mnist-full:{split}", images[rows], targets[rows])


def fashion_mnist_compact(split: str = "test") -> PixelData:
    """The compact set; arguments and errors as in `fashion_mnist`."""
    _check_split(split)
    if not COMPACT_FILE.is_file():
        raise BadInputError(
            f"there is no {COMPACT_FILE}: the compact set comes with a checkout of deploykit; "
            "for the whole set: apt-get install dataset-fashion-mnist"
        )
    try:
        with COMPACT_FILE.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, targets = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInputError(
            f"{COMPACT_FILE} is damaged: git checkout it, or python models/data/make_compact.py"
        ) from error
    return _data(f"fashion-mnist-compact:{split}", images, targets)


def whole_folder() -> Path | None:
    """Where the four files of the whole set are, or `None`."""
    own = os.environ.get("DEPLOYKIT_DATA")
    folders = [Path(own) / "fashion-mnist"] if own else []
    names = [form.format(stem) for form in (_IMAGES, _LABELS) for stem in ("train", "t10k")]
    for folder in (*folders, DEBIAN_FOLDER):
        if all((folder / name).is_file() for name in names):
            return folder
    return None


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in a gzipped IDX file of unsigned bytes.

    IDX: two zero bytes, the type, the number of dimensions; each dimension's size as a
    big-endian 32-bit integer; then the values, last dimension fastest.

    Args:
        path: of the `.gz` file.
        dimensions: how many it must have.

    Raises:
        BadInputError: it cannot be read, or is not such a file, or is cut off.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(f"cannot read {path}: {error}") from error
    magic = bytes((0, 0, _UNSIGNED_BYTES, dimensions))
    start = len(magic) + 4 * dimensions
    if content[: len(magic)] != magic or len(content) < start:
        raise BadInputError(f"{path} is not an IDX file of bytes with {dimensions} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(content[len(magic) : start], dtype=">u4"))
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise BadInputError(f"{path} says {list(shape)} and holds {values.size} values")
    return values.reshape(shape)


def _data(name: str, images: NDArray[np.uint8], targets: NDArray[np.uint8]) -> PixelData:
    return PixelData(name, LABELS, PREPROCESSING, images[:, None], targets.astype(np.int64))


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise BadInputError(f"fashion-mnist has no split {split!r}{nearest(split, SPLITS)}")
