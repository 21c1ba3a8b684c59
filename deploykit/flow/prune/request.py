"""What a pruning is asked for."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (read at run time by dataclass tools)
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003  (likewise)

from deploykit.compress.prune.options import AUTO, NEED_DATA
from deploykit.core.errors import BadInputError
from deploykit.core.types import Option  # noqa: TC001  (likewise)
from deploykit.flow.prune.loop import PruneLoop
from deploykit.load.sources import Source  # noqa: TC001  (likewise)


@dataclass(frozen=True, slots=True)
class PruneRequest(PruneLoop):
    """Everything that a pruning is asked for. What stands here wins over a recipe.

    Attributes:
        source: a PyTorch source or a recipe.
        out: the folder to make.
        changes: fields of `PruneOptions`.
        tuning: fields of `TrainOptions` for the fine-tuning that win over the recipe's.
        train: data to fine-tune on; "" takes the recipe's.
        val: data that drives every choice; likewise.
        eval: data that only reports; likewise.
        metric: how the data is scored, or "" for the usual one of its labels.
        overwrite: whether a pruned network at `out` may be replaced.
        as_stage: whether this is one of the recipe's own stages.
    """

    source: Source
    out: Path
    changes: Mapping[str, Option] = field(default_factory=dict)
    tuning: Mapping[str, Option] = field(default_factory=dict)
    train: str = ""
    val: str = ""
    eval: str = ""
    metric: str = ""
    overwrite: bool = False
    as_stage: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done, and options that would do nothing."""
        PruneLoop.__post_init__(self)
        if self.latency and "ratio" in self.changes:
            raise BadInputError("give a ratio or a latency, not both")
        if self.latency and "of" in self.changes:
            raise BadInputError(f"leave out of: a latency of {self.latency} is of no count")
        if not self.measure and self.changes.get("align") == AUTO:
            raise BadInputError("align auto has to be measured: give a number, such as 8")
        blocks = self.changes.get("depth")
        if "depth_by" in self.changes and not blocks:
            raise BadInputError("leave out depth_by: no blocks go, for that say depth")
        looks = blocks or self.changes.get("criterion") in NEED_DATA
        if "samples" in self.changes and not looks:
            raise BadInputError("leave out samples: no criterion looks at data")
        idle = sorted(self.tuning.keys() - {"seed"})
        if not self.finetune and idle:
            raise BadInputError(f"leave out {', '.join(idle)}: nothing is trained")
