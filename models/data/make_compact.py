"""Draw the compact set from the whole of Fashion-MNIST: `python models/data/make_compact.py`.

The same rows and the same arrays each time; the file's bytes too, with the same zlib.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from deploykit.load.fashion_mnist import COMPACT_FILE, fashion_mnist_full

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 20170825
PER_CLASS = {"train": 700, "val": 100, "test": 200}
# One fixed time in the archive, so that its bytes do not tell when it was made.
EPOCH = (1980, 1, 1, 0, 0, 0)


def balanced_rows(targets: NDArray[np.int64], per_class: int, seed: int) -> NDArray[np.int64]:
    """So many rows of each class, drawn without replacement, in ascending order."""
    draws = np.random.default_rng(seed)
    rows = [
        draws.choice(np.flatnonzero(targets == number), per_class, replace=False)
        for number in np.unique(targets)
    ]
    return np.sort(np.concatenate(rows))


def main() -> None:
    """Write `fashion_mnist_compact.npz`: images, labels and rows of every split."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, (split, per_class) in enumerate(PER_CLASS.items()):
        whole = fashion_mnist_full(split)
        rows = balanced_rows(whole.targets, per_class, SEED + number)
        arrays[f"{split}_images"] = whole.pixels[rows, 0]
        arrays[f"{split}_labels"] = whole.targets[rows].astype(np.uint8)
        # Row numbers within the same split of the whole set.
        arrays[f"{split}_rows"] = rows.astype(np.uint16)
    with zipfile.ZipFile(COMPACT_FILE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content.getvalue(), compresslevel=9)


if __name__ == "__main__":
    main()
