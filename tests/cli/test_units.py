"""Figures as people read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.cli.units import bytes_text, count_text, share_text, time_text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 ns"),
        (7, "7 ns"),
        (999, "999 ns"),
        (999.7, "1.00 µs"),
        (1000, "1 µs"),
        (1234, "1.23 µs"),
        (12_345_678, "12.3 ms"),
        (999_949, "1.00 ms"),
        (45_600_000_000, "45.6 s"),
        (3_600e9, "3600 s"),
        (None, "-"),
    ],
)
def test_times(nanoseconds: float | None, text: str) -> None:
    assert time_text(nanoseconds) == text


def test_bytes_and_counts_are_powers_of_1000() -> None:
    assert bytes_text(512) == "512 B"
    assert bytes_text(1_048_576) == "1.05 MB"
    assert count_text(2_772_010) == "2.77 M"
    assert count_text(10) == "10"
    assert count_text(None) == "-"


def test_shares() -> None:
    assert share_text(0.1234) == "12.3 %"
    assert share_text(None) == "-"


@given(st.floats(1e-1, 1e12))
def test_three_digits_are_within_half_a_percent(nanoseconds: float) -> None:
    number, unit = time_text(nanoseconds).split()
    factor = {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit]

    assert float(number) * factor == pytest.approx(nanoseconds, rel=5e-2 if factor == 1 else 5e-3)
    assert re.fullmatch(r"\d{4,}|\d{3}|\d\d(\.\d)?|\d(\.\d\d)?", number)
