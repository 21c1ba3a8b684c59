"""Two artifacts measured in turns: is the second one faster, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.bench.cases import Wanted
from deploykit.bench.run import Plan as BenchPlan
from deploykit.bench.schedule import StopRules
from deploykit.core.report import Check, Verdict
from deploykit.flow.measure import BenchRequest, measure

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.bench.statistics import Ratio
    from deploykit.core.progress import Progress

RUNTIME = "ort-cpu"
_QUICK = StopRules(min_time_ns=400_000_000, min_count=60, precision=0.01, budget_ns=3_000_000_000)
_CAREFUL = StopRules(min_time_ns=1_000_000_000, min_count=200, precision=0.005)


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Original and candidate, measured in turns on one machine.

    Attributes:
        whole_ns: median latency of the original.
        part_ns: of the candidate.
        share: of the original's latency, paired by round; with its interval.
        low: lower bound at 95 %, or `None` from too few rounds.
        high: upper bound, or `None`.
        precision: that both were measured in, where it is not as they came; "" likewise.
    """

    whole_ns: float
    part_ns: float
    share: float
    low: float | None
    high: float | None
    precision: str = ""

    @property
    def where(self) -> str:
        """The runtime, and the precision where it says more, in words."""
        return f"{RUNTIME} in {self.precision}" if self.precision else RUNTIME

    def check(self, limit: float, advice: str = "") -> Check:
        """Whether the candidate takes at most this share; the advice is for where it does not."""
        met = self.share <= limit
        return Check(
            f"latency on {self.where}, of the original's {self.whole_ns / 1e6:.4g} ms",
            Verdict.PASSED if met else Verdict.FAILED,
            self.share,
            None if self.low is None or self.high is None else (self.low, self.high),
            limit,
            "x",
            "" if met else advice,
        )


def side_by_side(
    whole: Path,
    part: Path,
    *,
    batch: int | None,
    threads: int | None,
    careful: bool,
    progress: Progress,
) -> SideBySide:
    """Measure two artifacts in turns.

    Args:
        whole: the original.
        part: the candidate.
        batch: of a call; `None` takes the smallest that they allow.
        threads: `None` leaves it to the runtime.
        careful: as long as a figure takes that is handed over.
        progress: told where it stands.

    Raises:
        EnvironmentFailedError: one of them does not run.
    """
    from deploykit.core.errors import EnvironmentFailedError

    batches = () if batch is None else (batch,)
    counts = () if threads is None else (threads,)
    request = BenchRequest(
        (str(whole), str(part)),
        Wanted((RUNTIME,), batches, counts),
        BenchPlan(rules=_CAREFUL if careful else _QUICK, processes=2),
    )
    result = measure(request, progress)
    first, second = result.summaries
    if first is None or second is None or first.p50 is None or second.p50 is None:
        said = next((m.error for m in result.measurements if m.error), "no figure")
        raise EnvironmentFailedError(f"{part.name} could not be measured: {said}")
    speed: Ratio | None = second.speed
    assert speed is not None, "both took part in the same rounds"
    return SideBySide(
        whole_ns=first.p50.value_ns,
        part_ns=second.p50.value_ns,
        share=1 / speed.value,
        low=1 / speed.high if speed.high else None,
        high=1 / speed.low if speed.low else None,
    )
