"""Which counts a latency comes to: decided once on the weights that were given, then kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.flow.prune.judge import latency_check
from deploykit.flow.prune.latency import aimed, predictor
from deploykit.flow.prune.record import KEPT, Counts
from deploykit.flow.prune.size import shapes_of, smaller

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploykit.compress.prune.choice.ranking import Scores
    from deploykit.compress.prune.choice.select import Selection
    from deploykit.core.progress import Progress
    from deploykit.flow.prune.cutting import Cutting
    from deploykit.flow.prune.latency import Bench
    from deploykit.flow.prune.loop import LatencyAim
    from deploykit.flow.prune.size import Network
    from deploykit.flow.side_by_side import SideBySide

_KEPT_NAME = "kept.json"


@dataclass(frozen=True, slots=True, eq=False)
class Planner:
    """Turns a latency into channel counts.

    Attributes:
        aim: the latency.
        bench: where it is taken.
        whole: the original as an artifact.
        network: the original.
        scores: of its channels.
        cutting: how they are chosen.
        progress: told where it stands.
    """

    aim: LatencyAim
    bench: Bench
    whole: Path
    network: Network
    scores: Callable[[], Scores]
    cutting: Cutting
    progress: Progress

    def make(self, folder: Path) -> None:
        """Find the counts and keep them.

        Raises:
            BadInputError: the network is within the aim already.
            CheckFailedError: the fastest that can be made of it is slower than it is.
        """
        selection, found = aimed(self._share(), self._chooser(), self._try_out, self.progress)
        latency_check(found, self.aim, f"a latency of {self.aim.text}")  # before any training
        kept = {
            group.name: group.channels - len(selection.removed.get(group.name, ()))
            for group in self.network.structure.free
        }
        records.save(folder / _KEPT_NAME, Counts(kept), KEPT)

    def _share(self) -> float:
        if self.aim.share is not None:
            return self.aim.share
        whole_ns = self.bench.compare(self.whole, self.whole).whole_ns
        share = self.aim.share_of(whole_ns)
        if share >= 1:
            raise BadInputError(
                f"the network takes {whole_ns / 1e6:.3g} ms, within {self.aim.text} already: ask "
                "for less time"
            )
        return share

    def _chooser(self) -> Callable[[float], Selection]:
        from deploykit.compress.prune.choice.candidates import candidates
        from deploykit.compress.prune.choice.footprint import footprint

        options, network = self.cutting.options, self.network
        groups = candidates(network.structure, options.exclude, options.least_exact)
        table = self.bench.table(self.bench.layers(self.whole))
        cost = predictor(table, footprint(groups, shapes_of(network.program)))
        scores = self.scores()
        return lambda left: self.cutting.selection(network, scores, 1 - left, cost=cost)

    def _try_out(self, selection: Selection, *, careful: bool) -> SideBySide:
        from deploykit.compress.prune.cutting.cut import plan_of

        network = self.network
        plan = plan_of(network.structure, selection.removed, network.program.sizes)
        small = smaller(network.model, network.program, plan, keep_class=False)
        return self.bench.compare(self.whole, self.bench.exported(small, "part"), careful=careful)


def read_counts(folder: Path) -> dict[str, int]:
    """What `Planner.make` kept."""
    return dict(records.load(folder / _KEPT_NAME, Counts, KEPT).kept)
