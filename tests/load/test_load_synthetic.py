"""Made-up inputs: the same seed gives the same numbers, and sizes are checked."""

from __future__ import annotations

import numpy as np
import pytest

from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, TensorSpec
from deploykit.load.inputs import parse_inputs
from deploykit.load.synthetic import choose_sizes, dims_of, synthetic_feeds

SPECS = parse_inputs(["image=N[1..4]x3x2:float16", "ids=NxL[2..8:2]:int64", "mask=NxL:bool"])


def test_types_and_shapes_are_the_networks() -> None:
    fed = synthetic_feeds(SPECS, {"N": 3, "L": 4}, seed=0)

    assert {name: (array.dtype.name, array.shape) for name, array in fed.items()} == {
        "image": ("float16", (3, 3, 2)),
        "ids": ("int64", (3, 4)),
        "mask": ("bool", (3, 4)),
    }
    assert np.isfinite(fed["image"]).all()
    assert set(np.unique(fed["ids"])) <= {0, 1}
    assert fed["mask"].all()


def test_a_seed_decides_every_number() -> None:
    sizes = {"N": 4, "L": 8}
    one, again, other = (synthetic_feeds(SPECS, sizes, seed)["image"] for seed in (1, 1, 2))

    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_numbers_are_these_on_every_machine() -> None:
    fed = synthetic_feeds(parse_inputs(["x=2"]), {}, seed=0)

    assert fed["x"].tolist() == pytest.approx([0.12573022, -0.13210486], rel=1e-6)


def test_a_type_that_numpy_cannot_make_asks_for_real_inputs() -> None:
    with pytest.raises(BadInputError) as caught:
        synthetic_feeds((TensorSpec("words", "string", (2,)),), {}, seed=0)

    assert str(caught.value) == (
        "input 'words' has type string, for which inputs cannot be made up: give real ones "
        "(bench: --data, export: --val)"
    )


def test_dimensions_are_listed_once_in_order() -> None:
    assert list(dims_of(SPECS)) == ["N", "L"]
    assert dims_of(SPECS)["L"] == Dim("L", 2, 8, 2)


def test_sizes_left_out_are_the_lowest() -> None:
    assert choose_sizes(SPECS) == {"N": 1, "L": 2}
    assert choose_sizes(SPECS, batch=4) == {"N": 4, "L": 2}
    assert choose_sizes(SPECS, batch=4, chosen={"L": 6}) == {"N": 4, "L": 6}
    assert choose_sizes(SPECS, batch=4, chosen={"N": 2}) == {"N": 2, "L": 2}


def test_a_fixed_batch_takes_itself_only() -> None:
    fixed = parse_inputs(["x=8x3"])
    assert choose_sizes(fixed, batch=8) == {}

    with pytest.raises(BadInputError) as caught:
        choose_sizes(fixed, batch=1)
    assert str(caught.value) == (
        "the first dimension of input 'x' is fixed at 8: batch 1 cannot be run"
    )


@pytest.mark.parametrize("specs", [(), (TensorSpec("x", "float32", ()),)])
def test_a_network_without_a_batch_says_so(specs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(BadInputError) as caught:
        choose_sizes(specs, batch=2)
    assert str(caught.value) == "the network takes no batch: batch 2 cannot be run"


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"N": 5}, "size 5 of N is outside its range 1..4"),
        ({"N": 0}, "size 0 of N is outside its range 1..4"),
        ({"L": 3}, "size 3 of L is outside its range 2..8, in steps of 2"),
        ({"n": 2}, "no dynamic dimension is called 'n'; known: L, N"),
        ({"LL": 2}, "no dynamic dimension is called 'LL'; did you mean 'L'?"),
    ],
)
def test_a_size_that_cannot_be_is_refused(chosen: dict[str, int], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        choose_sizes(SPECS, chosen=chosen)
    assert str(caught.value) == words


def test_an_unbounded_dimension_takes_any_size_from_its_lowest() -> None:
    specs = (TensorSpec("x", "float32", (Dim("N", 2), 3)),)

    assert choose_sizes(specs, batch=4096) == {"N": 4096}
    with pytest.raises(BadInputError, match=r"size 1 of N is outside its range 2\.\.$"):
        choose_sizes(specs, batch=1)
