"""What is judged: checks with their verdicts. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from deploykit.core.measurement import Measurement  # noqa: TC001  (msgspec reads the annotations)


class Verdict(Enum):
    """What a check found."""

    PASSED = "passed"
    FAILED = "failed"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict with the figure behind it.

    Attributes:
        name: what was checked ("parity ort-cpu batch 3").
        verdict: what was found.
        value: the figure, or `None` where there is none.
        interval: confidence interval of the figure, low and high, or `None`.
        limit: what the figure was held against, or `None` where it is only reported.
        unit: of value, interval and limit ("", "points", "ns" ...).
        advice: what to do about it; "" where nothing is to be done.
    """

    name: str
    verdict: Verdict
    value: float | None = None
    interval: tuple[float, float] | None = None
    limit: float | None = None
    unit: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The checks of one artifact. One without checks has not passed.

    Attributes:
        artifact_digest: of the artifact that was checked.
        checks: in the order they were made.
        measurements: what the checks were made from, where it is kept.
    """

    artifact_digest: str
    checks: tuple[Check, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether there is at least one check and every one has passed."""
        return bool(self.checks) and all(c.verdict is Verdict.PASSED for c in self.checks)
