"""How much a search may cost: a number of evaluations, or a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from time import monotonic

from deploykit.core.errors import BadInputError

DEFAULT_BUDGET = "32"
_TEXT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>s|m|min|h)?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Budget:
    """Of a search.

    Attributes:
        evaluations: of the accuracy, or `None` for any number.
        seconds: after which none is begun, or `None` for any time.
    """

    evaluations: int | None = None
    seconds: float | None = None

    @property
    def text(self) -> str:
        """As users say it."""
        if self.evaluations is not None:
            return "1 evaluation" if self.evaluations == 1 else f"{self.evaluations} evaluations"
        return f"{self.seconds:g} s"


def parse_budget(text: str) -> Budget:
    """A budget from what was typed: "32" evaluations, or a time: "90s", "15m", "2h".

    Raises:
        BadInputError: it is neither, or nothing.
    """
    match = _TEXT.fullmatch(text.strip())
    number = float(match["number"]) if match else 0.0
    if match is None or not number or (not match["unit"] and not number.is_integer()):
        raise BadInputError(
            f"budget {text!r} is no number of evaluations, such as 32, and no time, such as 10m"
        )
    if match["unit"]:
        return Budget(seconds=number * _SECONDS[match["unit"]])
    return Budget(evaluations=int(number))


@dataclass(slots=True)
class Purse:
    """A budget as it is spent.

    Attributes:
        budget: that there is.
        spent: evaluations so far.
    """

    budget: Budget
    spent: int = 0
    _began: float = field(default_factory=monotonic)

    @property
    def share(self) -> float:
        """Of the budget that is spent, 0 to 1 and beyond."""
        if self.budget.evaluations is not None:
            return self.spent / self.budget.evaluations
        if self.budget.seconds is not None:
            return (monotonic() - self._began) / self.budget.seconds
        return 0.0

    @property
    def last(self) -> bool:
        """Whether one more evaluation, as long as the mean so far, is all that fits."""
        if self.budget.evaluations is not None:
            return self.spent + 1 >= self.budget.evaluations
        each = self.share / self.spent if self.spent else 0.0
        return self.share + 2 * each > 1
