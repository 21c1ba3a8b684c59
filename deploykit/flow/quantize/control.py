"""Accuracy control of a quantization: the search, with networks in place of letters."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.flow.quantize.rank import ranked
from deploykit.flow.quantize.record import TryRow
from deploykit.flow.quantize.search import NOTHING, Judged, Trial, search
from deploykit.quantize.calibration_options import CalibrationOptions
from deploykit.quantize.options import QuantizeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.core.types import Option
    from deploykit.flow.budget import Purse
    from deploykit.flow.quantize.judge import Bench
    from deploykit.flow.quantize.request import QuantizeRequest
    from deploykit.flow.quantize.search import Found, Try
    from deploykit.flow.quantize.work import Work

CHEAP: tuple[Mapping[str, Option], ...] = (
    {"method": "mse"},
    {"method": "percentile"},
    {"method": "entropy"},
    {"method": "min-max"},
    {"equalise": True},
    {"smooth": "auto"},
    {"bias_correction": True},
    {"weight_range": "mse"},
    {"rounding": "gptq"},
)
"""Changes of options that cost nothing on the device, what takes least time first: the methods
share one calibration, what scales channels wants one more, the rest looks at layer by layer."""
_KNOWN = frozenset(f.name for kind in (QuantizeOptions, CalibrationOptions) for f in fields(kind))


@dataclass(frozen=True, slots=True)
class Control:
    """What accuracy control came to.

    Attributes:
        trial: the best.
        rows: all that was tried, for the record; empty where nothing limits the loss.
        text: what came of it, in a sentence; "" likewise.
        met: whether the best loses no more than was allowed.
    """

    trial: Trial = field(default_factory=Trial)
    rows: tuple[TryRow, ...] = ()
    text: str = ""
    met: bool = False

    def check(self, request: QuantizeRequest) -> None:
        """Nothing that loses too much is handed over, unless forced.

        Raises:
            CheckFailedError: nothing that was tried met the limit.
        """
        if self.rows and not self.met and not request.force:
            raise CheckFailedError(
                f"{self.text}; nothing was written; --force hands the nearest over; try more "
                "--samples, a larger --budget or a larger --max-drop"
            )


def accuracy_control(work: Work, bench: Bench, purse: Purse, scratch: Path) -> Control:
    """Look for the quantization with the most in integers that loses no more than is allowed.

    Args:
        work: what trials share.
        bench: where they are judged.
        purse: what it may cost.
        scratch: a folder for candidates.
    """

    def judge(trial: Trial) -> Judged:
        work.progress(f"accuracy control {purse.spent + 1}: {trial.text}", min(purse.share, 1.0))
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            try:
                artifact = work.written(work.made(trial), trial, Path(folder))
                found = bench.lost(artifact)
            except (BadInputError, CheckFailedError, np.linalg.LinAlgError):
                # Nothing is left to quantize, an output is NaN, or no rounding can be solved for.
                if not purse.spent:  # what was asked for: the user has to know
                    raise
                return NOTHING
        return Judged(found.value, found.samples, found.met)

    found = search(judge, cheap_changes(work), lambda trial: ranked(work, trial), purse)
    rows = tuple(_row(one) for one in found.tries)
    return Control(found.best.trial, rows, _text(found, bench, purse), found.best.judged.met)


def cheap_changes(work: Work) -> Sequence[Mapping[str, Option]]:
    """Those of `CHEAP` that are not as asked already."""
    options, calibration = work.request.options()

    def is_new(change: Mapping[str, Option]) -> bool:
        asked = {name: getattr(options, name, getattr(calibration, name, None)) for name in change}
        return change.keys() <= _KNOWN and asked != dict(change)

    return [change for change in CHEAP if is_new(change)]


def _row(one: Try) -> TryRow:
    trial, judged = one.trial, one.judged
    lost = judged.lost if isfinite(judged.lost) else None
    return TryRow(trial.text, dict(trial.changes), trial.floats, lost, judged.samples, judged.met)


def _text(found: Found, bench: Bench, purse: Purse) -> str:
    best, count = found.best, len(found.tries)
    assert bench.splits.val is not None, "see Bench.check_request"
    lost = f"{best.judged.lost:.4g} lost on {bench.splits.val.name}, allowed is {bench.limit:g}"
    tried = f"{count} evaluation{'s' * (count > 1)}"
    if not best.judged.met:
        ended = "" if found.complete else f", the budget of {purse.budget.text} is spent"
        return f"too much is lost: {lost}, by the nearest of {tried} ({best.trial.text}){ended}"
    more = "" if found.complete else f"; the budget of {purse.budget.text} ended the search"
    return f"met after {tried} ({best.trial.text}): {lost}{more}"
