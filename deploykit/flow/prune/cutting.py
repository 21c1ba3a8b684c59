"""How channels are scored and chosen, the same way in every round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deploykit.flow.prune.size import shapes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploykit.compress.prune.choice.evidence import Evidence
    from deploykit.compress.prune.choice.footprint import Kept
    from deploykit.compress.prune.choice.ranking import Scores
    from deploykit.compress.prune.choice.select import Selection, Steps
    from deploykit.compress.prune.options import PruneOptions
    from deploykit.compress.prune.structure import Structure
    from deploykit.flow.prune.size import Network
    from deploykit.load.data import Array


@dataclass(frozen=True, slots=True, eq=False)
class Cutting:
    """What is cut the same way in every round.

    Attributes:
        options: how.
        steps: what groups may keep, by name.
        evidence: for criteria that look at data, or `None`.
        kept: channels that groups keep in the end, where that is planned; else `None`, and the
            ratio decides.
    """

    options: PruneOptions
    steps: Steps
    evidence: Evidence | None
    kept: Kept | None = None

    def scores(self, network: Network) -> Scores:
        """Importance of every channel."""
        from deploykit.compress.prune.choice.score import score

        return score(
            network.program.module,
            network.structure,
            self.options.criterion,
            evidence=self.evidence,
            seed=self.options.seed,
        )

    def selection(
        self,
        network: Network,
        scores: Scores,
        ratio: float,
        *,
        least: Mapping[str, int] | None = None,
        cost: Callable[[Kept], float] | None = None,
    ) -> Selection:
        """Which channels go for a ratio; `least` and `cost` are those of `select`."""
        from deploykit.compress.prune.analysis.cost import macs_of
        from deploykit.compress.prune.choice.select import select

        return select(
            network.structure,
            scores,
            replace(self.options, ratio=ratio),
            shapes=shapes_of(network.program),
            macs=macs_of(network.program),
            steps=self.steps,
            least=least,
            cost=cost,
        )

    def planned(
        self, structure: Structure, scores: Scores, whole: Mapping[str, int], part: float
    ) -> dict[str, Array]:
        """The least important channels, so that a part of the planned way is gone.

        Args:
            structure: as it is now.
            scores: of its channels.
            whole: channels of each group before the first round.
            part: of the way, 0 to 1.
        """
        assert self.kept is not None, "only where counts are planned"
        removed: dict[str, Array] = {}
        for group in structure.free:
            if group.name not in self.kept or group.name not in scores:
                continue
            before, after = whole[group.name], self.kept[group.name]
            gone = group.channels - (before - round((before - after) * part))
            if gone > 0:
                order = np.argsort(scores[group.name], kind="stable")
                removed[group.name] = np.sort(order[:gone])
        return removed
