"""How a pruning goes on: to which aim, in how many rounds. Standard library only: help reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deploykit.compress.distill.options import DistillOptions
from deploykit.core.errors import BadInputError, nearest

_UNITS_NS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}
PRECISIONS = ("float32", "int8", "float16")
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
        distill: how much the softened outputs of the network that was given count beside the
            labels in that training, from 0 to 1.
        temperature: that softens them.
        measure: whether the latency of both networks is measured side by side.
        batch: of the measurement; `None` takes the smallest that the network allows.
        threads: likewise; `None` leaves it to the runtime.
        precision: that will ship: layers are timed in it where channel counts are rounded, and
            with "int8" whole networks are quantized to be measured. In "float16" they are
            measured in float32, so that no latency can be asked for.
        check: whether the oracle proves the cut in float64.
    """

    latency: str = ""
    rounds: int = 1
    max_drop: float | None = None
    finetune: bool = True
    distill: float = 0.0
    temperature: float = DistillOptions().temperature
    measure: bool = True
    batch: int | None = None
    threads: int | None = None
    precision: str = PRECISIONS[0]
    check: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        for name in ("rounds", "batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInputError(f"{name} must be 1 or more, not {value}")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise BadInputError(f"max_drop must be 0 points or more, not {self.max_drop:g}")
        DistillOptions(self.distill, self.temperature)
        if self.distill and not self.finetune:
            raise BadInputError("leave out distill: nothing is trained")
        if not self.distill and self.temperature != DistillOptions().temperature:
            raise BadInputError("leave out temperature: there is no teacher, for that say distill")
        if self.precision not in PRECISIONS:
            raise BadInputError(
                f"precision {self.precision!r} is unknown{nearest(self.precision, PRECISIONS)}"
            )
        if self.latency:
            LatencyAim.parse(self.latency)
            if self.precision == "float16":
                raise BadInputError(
                    f"a latency of {self.latency} is measured in float32 or int8: for float16 aim "
                    "at a ratio, whose channel counts are rounded to what it likes"
                )
        if not self.measure:
            if self.latency:
                raise BadInputError(f"a latency of {self.latency} has to be measured")
            asked = [n for n in ("batch", "threads") if getattr(self, n) is not None]
            if self.precision != PRECISIONS[0]:
                asked.append("precision")
            if asked:
                raise BadInputError(f"leave out {' and '.join(asked)}: nothing is measured")
