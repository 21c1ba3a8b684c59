"""How much smaller a student may be asked to be."""

from __future__ import annotations

import pytest

from deploykit.compress.distill.smaller_options import SmallerOptions
from deploykit.core.errors import BadInputError


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"width": 0.0}, "width must be above 0, at most 1, not 0"),
        ({"width": 50.0}, "width must be above 0, at most 1, not 50; for 50 % write 0.5"),
        ({"depth": -1.0}, "depth must be above 0, at most 1, not -1"),
        ({"depth": float("nan")}, "depth must be above 0, at most 1, not nan"),
        ({"width": 0.5, "align": 0}, "align must be 1 or more, not 0"),
        ({}, "width 1 and depth 1 are the teacher itself: ask for less, such as width 0.5"),
    ],
)
def test_what_cannot_be_is_one_line(asked: dict[str, float], says: str) -> None:
    with pytest.raises(BadInputError) as caught:
        SmallerOptions(**asked)  # type: ignore[arg-type]  # align is whole

    assert str(caught.value) == says
