"""Figures as people read them. Records keep base units; only these functions change them."""

from __future__ import annotations

NOT_MEASURED = "-"
_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def time_text(nanoseconds: float | None) -> str:
    """Three significant digits: 999 ns, 1.23 ms, 45.6 s; "-" where it could not be measured."""
    return _scaled(nanoseconds, _TIMES)


def bytes_text(size: float | None) -> str:
    """Three significant digits, powers of 1000: 512 B, 1.23 MB."""
    return _scaled(size, _BYTES)


def count_text(number: float | None) -> str:
    """Three significant digits: 512, 1.23 M, 4.56 G."""
    return _scaled(number, _COUNTS).rstrip()


def share_text(share: float | None) -> str:
    """A share of 1 in percent, with one decimal: 12.3 %."""
    return NOT_MEASURED if share is None else f"{100 * share:.1f} %"


def decibels_text(ratio: float | None) -> str:
    """A ratio in decibels, with one decimal: 31.4 dB."""
    return NOT_MEASURED if ratio is None else f"{ratio:.1f} dB"


def _scaled(value: float | None, units: tuple[tuple[float, str], ...]) -> str:
    if value is None:
        return NOT_MEASURED
    for factor, unit in units:
        # 999.5 of a unit would round to 1000: it belongs to the next one.
        if abs(value) >= 0.9995 * factor or factor == 1:
            return f"{_three_digits(value / factor)} {unit}"
    raise AssertionError(units)


def _three_digits(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1000:
        return f"{value:.0f}"
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}"
