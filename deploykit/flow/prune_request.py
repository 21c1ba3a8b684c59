"""What a pruning is asked for. Standard library and records only: help reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003  (read at run time by dataclass tools)
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003  (likewise)

from deploykit.compress.prune.options import AUTO
from deploykit.core.errors import BadInputError
from deploykit.core.types import Option  # noqa: TC001  (likewise)
from deploykit.load.sources import Source  # noqa: TC001  (likewise)

_UNITS_NS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}
_LATENCY = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>x|ns|us|µs|ms|s)")


@dataclass(frozen=True, slots=True)
class LatencyAim:
    """A latency that the pruned network must not exceed.

    Attributes:
        text: as it was asked for.
        share: of the original's latency, above 0 and below 1; or `None`.
        latency_ns: of one call; or `None`.
    """

    text: str
    share: float | None = None
    latency_ns: float | None = None

    @classmethod
    def parse(cls, text: str) -> LatencyAim:
        """Read "0.6x" or "4ms".

        Raises:
            BadInputError: it is neither, or no smaller than the original's.
        """
        found = _LATENCY.fullmatch(text.strip())
        if found is None:
            raise BadInputError(
                f"latency {text!r} is neither a share of the original's nor a time; write it like "
                "0.6x or 4ms"
            )
        number = float(found["number"])
        if found["unit"] != "x":
            if number <= 0:
                raise BadInputError(f"latency {text!r} must be above 0")
            return cls(text, latency_ns=number * _UNITS_NS[found["unit"]])
        if not 0 < number < 1:
            raise BadInputError(f"latency {text!r} must be above 0x and below 1x, such as 0.6x")
        return cls(text, share=number)

    def share_of(self, whole_ns: float) -> float:
        """The aim as a share of the original's latency."""
        if self.share is not None:
            return self.share
        assert self.latency_ns is not None, "one of the two is given"
        return self.latency_ns / whole_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneLoop:
    """How a pruning goes on beside what `PruneOptions` and, for training, `TrainOptions` say.

    These are keys of a recipe's stage "prune" as well.

    Attributes:
        latency: "0.6x" or "4ms": measured on ONNX Runtime's CPU provider; "" aims at the ratio.
        rounds: score, cut and fine-tune so many times, a part of the aim each time.
        max_drop: points of accuracy on the validation data that may be lost; `None`: any.
        finetune: whether to train after cutting, where there is data for it.
        measure: whether the latency of both networks is measured side by side.
        batch: of the measurement; `None` takes the smallest that the network allows.
        threads: likewise; `None` leaves it to the runtime.
        check: whether the oracle proves the cut in float64.
    """

    latency: str = ""
    rounds: int = 1
    max_drop: float | None = None
    finetune: bool = True
    measure: bool = True
    batch: int | None = None
    threads: int | None = None
    check: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        for name in ("rounds", "batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInputError(f"{name} must be 1 or more, not {value}")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise BadInputError(f"max_drop must be 0 points or more, not {self.max_drop:g}")
        if self.latency:
            LatencyAim.parse(self.latency)
        if not self.measure:
            if self.latency:
                raise BadInputError(f"a latency of {self.latency} has to be measured")
            if asked := [n for n in ("batch", "threads") if getattr(self, n) is not None]:
                raise BadInputError(f"leave out {' and '.join(asked)}: nothing is measured")


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
        idle = sorted(self.tuning.keys() - {"seed"})
        if not self.finetune and idle:
            raise BadInputError(f"leave out {', '.join(idle)}: nothing is trained")
