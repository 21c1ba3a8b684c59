"""Declared inputs: whatever can be declared is read back as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim, TensorSpec
from deploykit.load.data import shape_text
from deploykit.load.inputs import DTYPES, input_text, parse_inputs

# "x" stands between sizes, so no dimension's name has it.
_LETTERS = st.sampled_from("ABCHNTWXabnw")
_NAMES = st.from_regex(r"[a-zA-Z_][\w.\-]{0,8}", fullmatch=True)


@st.composite
def _dims(draw: st.DrawFn) -> Dim:
    step = draw(st.integers(1, 32))
    low = step * draw(st.integers(1, 20))
    high = low + step * draw(st.integers(0, 20))
    return Dim(draw(_LETTERS) + draw(st.sampled_from(["", "1", "_in"])), low, high, step)


@st.composite
def _specs(draw: st.DrawFn) -> tuple[TensorSpec, ...]:
    """Inputs of different names, where dimensions of one name have one range."""
    dims = {dim.name: dim for dim in draw(st.lists(_dims(), max_size=4))}
    sizes = st.integers(0, 4096)
    either = st.one_of(sizes, st.sampled_from(sorted(dims))) if dims else sizes
    names = draw(st.lists(_NAMES, min_size=1, max_size=4, unique=True))
    return tuple(
        TensorSpec(
            name,
            draw(st.sampled_from(DTYPES)),
            tuple(dims[size] if isinstance(size, str) else size for size in shape),
        )
        for name in names
        for shape in [draw(st.lists(either, max_size=5))]
    )


@given(_specs())
def test_what_is_written_is_read_back(specs: tuple[TensorSpec, ...]) -> None:
    assert parse_inputs(input_text(spec) for spec in specs) == specs


@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_text_is_read_or_refused_in_one_line(texts: list[str]) -> None:
    try:
        read = len(parse_inputs(texts))
    except BadInputError as error:
        read, message = len(texts), str(error)
    else:
        message = ""

    assert read == len(texts)
    assert "\n" not in message


@given(_dims(), st.integers(2, 5))
def test_a_range_is_said_once_and_meant_everywhere(dim: Dim, times: int) -> None:
    span = shape_text(TensorSpec("", "", (dim,)))
    first = f"a={'x'.join([span, *[dim.name] * (times - 1)])}"

    a, b = parse_inputs([first, f"b=3x{dim.name}:int64"])

    assert a.shape == (dim,) * times
    assert b.shape == (3, dim)
