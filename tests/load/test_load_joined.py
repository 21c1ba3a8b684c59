"""Labelled and unlabelled samples as one data set."""

from __future__ import annotations

import numpy as np
import pytest

from deploykit.core.errors import BadInputError
from deploykit.load.arrays import ArrayData
from deploykit.load.joined import NOTHING, Joined, Unlabelled
from deploykit.train import tasks


def data(name: str, first: int, count: int, labels: object = "uint8") -> ArrayData:
    x = np.arange(first, first + count, dtype=np.float32)[:, None]
    return ArrayData(name, {"x": x}, None if labels is None else x[:, 0].astype(str(labels)))


BOTH = Joined(data("known", 0, 3), Unlabelled(data("more", 10, 2)))


def test_samples_come_in_the_order_that_is_asked_for() -> None:
    batch = BOTH.batch([4, 0, 3, 2])

    assert batch.inputs["x"][:, 0].tolist() == [11, 0, 10, 2]
    assert batch.labels is not None
    assert batch.labels.tolist() == [NOTHING, 0, NOTHING, 2]
    assert batch.labels.dtype == np.int64
    assert len(BOTH) == 5
    assert BOTH.name == "known + more"


def test_one_part_alone_has_the_same_types() -> None:
    for rows in ([1], [4]):
        labels = BOTH.batch(rows).labels
        assert labels is not None
        assert labels.dtype == np.int64


def test_labels_have_the_shape_that_they_have_elsewhere() -> None:
    labels = Unlabelled(data("more", 0, 2, None), (3,)).batch([0, 1]).labels

    assert labels is not None
    assert labels.tolist() == [[NOTHING] * 3] * 2


def test_the_digest_depends_on_both_and_on_their_order() -> None:
    one, other = data("a", 0, 3), data("b", 5, 3)
    found = {
        Joined(one, Unlabelled(other)).digest(),
        Joined(other, Unlabelled(one)).digest(),
        Joined(one, other).digest(),
        Unlabelled(one).digest(),
        one.digest(),
    }

    assert len(found) == 5


def test_training_calls_it_nothing_too() -> None:
    assert NOTHING == tasks.NOTHING


def test_what_does_not_go_together() -> None:
    wide = ArrayData("wide", {"x": np.zeros((2, 7), np.float32)})
    with pytest.raises(BadInputError) as caught:
        Joined(data("known", 0, 3), Unlabelled(wide)).batch([0, 4])
    assert str(caught.value) == (
        "known has samples of shape [1] and wide of [7]: they are learnt together, so make them "
        "alike"
    )
    with pytest.raises(BadInputError) as caught:
        Joined(data("numbers", 0, 3, "float32"), Unlabelled(wide)).batch([0])
    assert str(caught.value) == (
        "numbers has labels of type float32: samples without labels stand beside class numbers only"
    )
