"""scikit-learn's digits: 1,797 grey images of 8x8 pixels, ten classes.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998: the test part, in its order. Later rows are from other writers, so splits are
by row: the first 1,197 to learn from, then 300 for choices, then 300 to report.
"""

from __future__ import annotations

import numpy as np

from deploykit.core.errors import BadInputError, nearest
from deploykit.core.extras import extra
from deploykit.core.types import Preprocessing
from deploykit.load.pixels import PixelData

LABELS = tuple("0123456789")
SPLITS = {"train": slice(1197), "val": slice(1197, 1497), "test": slice(1497, None)}
# Stored values go from 0 to 16. Mean and standard deviation of the scaled pixels of all rows.
PREPROCESSING = Preprocessing(color="L", scale=1 / 16, mean=(0.3053,), std=(0.3760,))


def digits(split: str = "") -> PixelData:
    """The images as 1x8x8.

    Args:
        split: "train", "val", "test", or "" for all rows.

    Raises:
        BadInputError: no such split.
        MissingExtraError: scikit-learn is not installed.
    """
    if split and split not in SPLITS:
        raise BadInputError(f"digits has no split {split!r}{nearest(split, SPLITS)}")
    with extra("data"):
        from sklearn.datasets import load_digits
    whole = load_digits()
    rows = SPLITS[split] if split else slice(None)
    return PixelData(
        name=f"digits:{split}" if split else "digits",
        labels=LABELS,
        preprocessing=PREPROCESSING,
        pixels=whole.images[rows, None].astype(np.uint8),
        targets=whole.target[rows].astype(np.int64),
    )
