"""What adding exits is asked for."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (read at run time by dataclass tools)
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003  (likewise)

from deploykit.core.types import Option  # noqa: TC001  (likewise)
from deploykit.flow.exits.loop import ExitsLoop
from deploykit.load.sources import Source  # noqa: TC001  (likewise)


@dataclass(frozen=True, slots=True)
class ExitsRequest(ExitsLoop):
    """Everything that is asked for. What stands here wins over a recipe.

    Attributes:
        source: a PyTorch source or a recipe.
        out: the folder to make.
        changes: fields of `ExitsOptions`.
        tuning: fields of `TrainOptions` for the training that win over the recipe's.
        train: data to learn from; "" takes the recipe's.
        val: data that drives every choice; likewise.
        eval: data that only reports; likewise.
        metric: how the data is scored, or "" for the usual one of its labels.
        overwrite: whether a network with exits at `out` may be replaced.
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
