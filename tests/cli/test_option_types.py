"""Types of options: what they read, and what they say where they cannot."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.cli.types import CPUS, DURATION, INTEGERS, PERCENT, SIZE, Integers


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2s", 2_000_000_000),
        ("500ms", 500_000_000),
        ("1.5min", 90_000_000_000),
        ("20 us", 20_000),
        ("20µs", 20_000),
        ("7ns", 7),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert DURATION.convert(text, None, None) == nanoseconds


@pytest.mark.parametrize("text", ["", "2", "s", "-1s", "2 h", "1e3ms", "0s", "0.1ns"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="500ms"):
        DURATION.convert(text, None, None)


def test_percentages() -> None:
    assert PERCENT.convert("1%", None, None) == 0.01
    assert PERCENT.convert("0.5 %", None, None) == 0.005
    with pytest.raises(click.BadParameter, match="'1' is not a percentage; write it like 1%"):
        PERCENT.convert("1", None, None)


def test_integers_keep_their_order_and_come_once() -> None:
    assert INTEGERS.convert("8,1,8", None, None) == (8, 1)


@pytest.mark.parametrize("text", ["", "1,", "1;2", "1.5", "-1", "one"])
def test_integers_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write it like 1,8,32"):
        INTEGERS.convert(text, None, None)


def test_integers_below_the_lowest() -> None:
    with pytest.raises(click.BadParameter, match="0 in '4,0' is below 1"):
        INTEGERS.convert("4,0", None, None)
    assert Integers(low=0).convert("4,0", None, None) == (4, 0)


@pytest.mark.parametrize("text", ["", "3-1", "a", "0-", "1-99999999999", "0--3", "²"])
def test_cpus_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write it like 0-3,6"):
        CPUS.convert(text, None, None)


@given(st.sets(st.integers(0, 2000), min_size=1))
def test_any_set_of_cpus_is_read_back(cpus: set[int]) -> None:
    assert CPUS.convert(",".join(map(str, cpus)), None, None) == tuple(sorted(cpus))


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_range_of_cpus_has_both_ends(first: int, length: int) -> None:
    cpus = CPUS.convert(f"{first}-{first + length}", None, None)

    assert cpus == tuple(range(first, first + length + 1))


def test_sizes() -> None:
    assert SIZE.convert("N=8", None, None) == ("N", 8)
    for text in ("N", "=8", "N=", "N=0", "N=x", "N=-1"):
        with pytest.raises(click.BadParameter, match="write it like N=8"):
            SIZE.convert(text, None, None)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(DURATION, 5), (PERCENT, 0.1), (INTEGERS, (1,)), (CPUS, (1,)), (SIZE, ("N", 1))],
)
def test_defaults_that_are_values_already_are_kept(
    kind: click.ParamType[object], value: object
) -> None:
    assert kind.convert(value, None, None) == value
