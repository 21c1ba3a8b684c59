"""One batch of data under a network's names: what fits, what is cast, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, TensorSpec
from deploykit.load.data import Batch, feeds, shape_fits, shape_text
from deploykit.load.inputs import parse_inputs

if TYPE_CHECKING:
    from deploykit.load.data import Array

SPECS = parse_inputs(["image=N[1..4]x3x2:float32", "ids=NxL[2..8:2]:int64"])


def batch(**arrays: Array) -> Batch:
    good: dict[str, Array] = {
        "image": np.zeros((2, 3, 2), np.float32),
        "ids": np.zeros((2, 4), np.int64),
    }
    return Batch({**good, **arrays})


def test_inputs_are_found_by_name_in_any_order() -> None:
    given = batch()
    fed = feeds(Batch({name: given.inputs[name] for name in ("ids", "image")}), SPECS, "my data")

    assert list(fed) == ["image", "ids"]
    assert fed["ids"].shape == (2, 4)


def test_inputs_of_other_names_go_by_position() -> None:
    first, second = batch().inputs.values()
    fed = feeds(Batch({"x": first, "y": second}), SPECS, "my data")

    assert fed["image"].shape == (2, 3, 2)
    assert fed["ids"].shape == (2, 4)


def test_floats_become_the_networks_floats_and_integers_its_integers() -> None:
    given = batch(image=np.ones((2, 3, 2), np.float64), ids=np.ones((2, 4), np.uint8))
    fed = feeds(given, SPECS, "my data")

    assert {name: array.dtype.name for name, array in fed.items()} == {
        "image": "float32",
        "ids": "int64",
    }


def test_what_comes_out_is_contiguous() -> None:
    given = batch(image=np.zeros((3, 2, 2), np.float32).transpose(2, 0, 1))
    assert not given.inputs["image"].flags.c_contiguous

    assert feeds(given, SPECS, "my data")["image"].flags.c_contiguous


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            Batch({"image": np.zeros((2, 3, 2), np.float32)}),
            "my data has 1 inputs (image) and the network takes 2 (image, ids)",
        ),
        (
            batch(image=np.zeros((2, 3, 2), np.int32)),
            "my data gives int32 for input 'image', which is float32",
        ),
        (
            batch(ids=np.zeros((2, 4), np.float32)),
            "my data gives float32 for input 'ids', which is int64",
        ),
        (
            batch(ids=np.zeros((2, 4), np.bool_)),
            "my data gives bool for input 'ids', which is int64",
        ),
        (
            batch(image=np.zeros((2, 3, 3), np.float32)),
            "my data gives shape [2, 3, 3] for input 'image', which takes N[1..4]x3x2",
        ),
        (
            batch(image=np.zeros((2, 6), np.float32)),
            "my data gives shape [2, 6] for input 'image', which takes N[1..4]x3x2",
        ),
        (
            batch(image=np.zeros((5, 3, 2), np.float32)),
            "my data gives shape [5, 3, 2] for input 'image', which takes N[1..4]x3x2",
        ),
        (
            batch(ids=np.zeros((2, 3), np.int64)),
            "my data gives shape [2, 3] for input 'ids', which takes N[1..4]xL[2..8:2]",
        ),
        (
            batch(image=np.full((2, 3, 2), np.nan, np.float32)),
            "my data has NaN or infinite values for input 'image'",
        ),
        (
            batch(image=np.full((2, 3, 2), -np.inf, np.float32)),
            "my data has NaN or infinite values for input 'image'",
        ),
        (
            batch(ids=np.zeros((3, 4), np.int64)),
            "my data gives N=2 for input 'image' and N=3 for input 'ids': they must be equal",
        ),
    ],
)
def test_what_does_not_fit_is_refused(given: Batch, words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        feeds(given, SPECS, "my data")

    assert str(caught.value) == words


def test_one_name_that_is_wrong_is_refused() -> None:
    # By position it might be fed, in the place of another input.
    good = batch().inputs
    with pytest.raises(BadInputError) as caught:
        feeds(Batch({"idz": good["ids"], "image": good["image"]}), SPECS, "my data")

    assert str(caught.value) == (
        "my data lacks input 'ids', and idz is none of the network's: it takes image, ids"
    )


def test_a_number_too_large_for_the_networks_type_is_refused() -> None:
    with pytest.raises(BadInputError, match="my data has numbers beyond float16 for input 'x'"):
        feeds(Batch({"x": np.array([1.0, 1e6])}), parse_inputs(["x=2:float16"]), "my data")
    with pytest.raises(BadInputError, match="my data has numbers beyond uint8 for input 'x'"):
        feeds(Batch({"x": np.array([1, -1])}), parse_inputs(["x=2:uint8"]), "my data")


def test_an_input_without_an_upper_limit_takes_any_size() -> None:
    unbounded = TensorSpec("x", "float32", (Dim("N", 2), 2))

    assert shape_fits((10**9, 2), unbounded)
    assert not shape_fits((1, 2), unbounded)
    assert shape_text(unbounded) == "N[2..]x2"


def test_a_scalar_is_written_as_one() -> None:
    (spec,) = parse_inputs(["x=:float32"])

    assert shape_text(spec) == "scalar"
    assert shape_fits((), spec)
