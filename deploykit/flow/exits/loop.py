"""How adding exits goes on. Standard library only: help reads it."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError, nearest

RULE_NAMES = ("confidence", "margin", "entropy", "patience")
"""As in `deploykit.runtimes.dynamic.rules`, which brings NumPy."""
USUAL_DROP = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitsLoop:
    """How it goes on beside what `ExitsOptions` and, for training, `TrainOptions` say.

    These are keys of a recipe's stage "exits" as well.

    Attributes:
        rule: by which samples leave.
        max_drop: points of accuracy on the validation data that may be lost, against the network
            that was given or its own end with exits, whichever is better there; thresholds are the
            fastest that lose no more, on samples that they were not solved on either (five folds).
            `None` without a latency: 0.5.
        latency: mean time of a call on the validation data, such as "5ms", or a share of the whole
            network's, such as "0.5x"; thresholds are the most accurate that take no more.
        batch: of the measurement; `None` takes the smallest that the network allows.
        threads: likewise.
    """

    rule: str = RULE_NAMES[0]
    max_drop: float | None = None
    latency: str = ""
    batch: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.rule not in RULE_NAMES:
            raise BadInputError(
                f"there is no exit rule {self.rule!r}{nearest(self.rule, RULE_NAMES)}"
            )
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInputError(f"{name} must be 1 or more, not {value}")
        if self.max_drop is not None and self.latency:
            raise BadInputError(
                f"thresholds are solved for max_drop {self.max_drop:g} or for latency "
                f"{self.latency}: give one of the two"
            )
        if self.max_drop is not None and not self.max_drop >= 0:
            raise BadInputError(f"max_drop must be 0 points or more, not {self.max_drop:g}")
        if self.latency:
            parse_latency(self.latency)

    @property
    def drop(self) -> float:
        """Points that may be lost where that is the target."""
        return USUAL_DROP if self.max_drop is None else self.max_drop


def parse_latency(text: str) -> tuple[float, bool]:
    """Nanoseconds, or a share of the whole network's time (then the second is true).

    Raises:
        BadInputError: it is neither.
    """
    units = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9, "x": 1.0}
    for unit in ("ns", "us", "ms", "x", "s"):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit))
            except ValueError:
                break
            if value > 0:
                return value * units[unit], unit == "x"
            break
    raise BadInputError(f'latency {text!r} is no time: write it like "5ms", "800us" or "0.5x"')
