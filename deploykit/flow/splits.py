"""The two splits of data that an export sees: one that decides, one that only reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.load.datasets import open_data

if TYPE_CHECKING:
    from deploykit.load.data import Data
    from deploykit.load.recipe import Recipe


VAL = "val"


@dataclass(frozen=True, slots=True)
class Splits:
    """The data that was asked for, opened.

    Attributes:
        val: what drives every choice.
        eval: what only reports.
    """

    val: Data | None
    eval: Data | None

    @property
    def inputs(self) -> Data | None:
        """What parity runs on."""
        return self.val or self.eval

    @property
    def named(self) -> dict[str, Data]:
        """Those that there are."""
        both = {VAL: self.val, "eval": self.eval}
        return {name: data for name, data in both.items() if data is not None}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each, in hex."""
        return {name: data.digest() for name, data in self.named.items()}


def check_limit(max_drop: float | None, val: str) -> None:
    """Refuse a limit on what may be lost that nothing is held against.

    Args:
        max_drop: the limit, or `None` where nothing limits it.
        val: data to judge on, or "".

    Raises:
        BadInputError: there is a limit and no data.
    """
    if max_drop is not None and not val:
        raise BadInputError(
            "a limit on the loss of accuracy (max_drop) needs data to judge it on: add --val"
        )


def open_splits(val: str, evaluation: str, recipe: Recipe | None = None) -> Splits:
    """Open both.

    Args:
        val: in the words of `deploykit.load.datasets`; "" takes the recipe's.
        evaluation: likewise.
        recipe: whose data is taken where nothing else was asked for.

    Raises:
        BadInputError: a data set is not there, or not of its form.
    """

    def opened(asked: str, in_recipe: str) -> Data | None:
        if asked:
            return open_data(asked)
        return open_data(in_recipe, recipe.folder) if recipe and in_recipe else None

    return Splits(
        val=opened(val, recipe.data.val if recipe else ""),
        eval=opened(evaluation, recipe.data.eval if recipe else ""),
    )
