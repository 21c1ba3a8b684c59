"""Types of options that click does not have: durations, percentages, lists, CPUs, sizes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s|min)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


class Duration(click.ParamType[int]):
    """A time with its unit, "500ms", "2s" or "1.5min"; becomes nanoseconds (int), more than 0."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read one; an `int` is nanoseconds already (a default)."""
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration; write it like 500ms, 2s or 1.5min", param, ctx)
        nanoseconds = round(float(match[1]) * _NANOSECONDS[match[2]])
        if nanoseconds < 1:
            self.fail(f"{value!r} is no time at all; write it like 500ms or 2s", param, ctx)
        return nanoseconds


class Percent(click.ParamType[float]):
    """A percentage, "1%" or "0.5 %"; becomes a share of 1 (float)."""

    name = "percent"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read one; a `float` is a share already (a default)."""
        if isinstance(value, float):
            return value
        match = _PERCENT.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a percentage; write it like 1% or 0.5%", param, ctx)
        return float(match[1]) / 100


class Integers(click.ParamType[tuple[int, ...]]):
    """Numbers separated by commas, "1,8,32"; becomes a tuple in the order given, each once.

    Args:
        low: the smallest that is allowed.
    """

    name = "integers"

    def __init__(self, low: int = 1) -> None:
        self.low = low

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read them; a tuple is kept (a default)."""
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.strip().isdecimal() for word in words):
            self.fail(f"{value!r} is not a list of numbers; write it like 1,8,32", param, ctx)
        numbers = tuple(dict.fromkeys(int(word) for word in words))
        if min(numbers) < self.low:
            self.fail(f"{min(numbers)} in {value!r} is below {self.low}", param, ctx)
        return numbers


class Cpus(click.ParamType[tuple[int, ...]]):
    """CPUs as taskset lists them, "0-3,6"; becomes an ascending tuple."""

    name = "cpus"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read them; a tuple is kept (a default)."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(sorted(set(_cpus(str(value)))))
        except ValueError:
            self.fail(f"{value!r} is not a list of CPUs; write it like 0-3,6", param, ctx)


def _cpus(text: str) -> Iterator[int]:
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(word)
        low, high = int(first), int(last or first)
        # No machine has more; a slip of the finger must not fill the memory.
        if not low <= high < 1 << 16:
            raise ValueError(word)
        yield from range(low, high + 1)


class Size(click.ParamType[tuple[str, int]]):
    """The size of a dynamic dimension, "N=8"; becomes its name and the size."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Read one; a tuple is kept (a default)."""
        if isinstance(value, tuple):
            return value
        name, _, size = str(value).rpartition("=")
        if not name or not size.isdecimal() or not int(size):
            self.fail(f"{value!r} is not a size; write it like N=8", param, ctx)
        return name, int(size)


DURATION = Duration()
PERCENT = Percent()
INTEGERS = Integers()
CPUS = Cpus()
SIZE = Size()
