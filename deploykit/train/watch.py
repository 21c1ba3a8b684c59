"""What the terms of a loss come to over an epoch, and the first batch where one is no number."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from deploykit.train.objective import Term


@dataclass(frozen=True, slots=True)
class Part:
    """A term over several batches.

    Attributes:
        value: a mean, or a sum while the epoch lasts.
        weight: likewise; schedules change it from step to step.
    """

    value: float
    weight: float


@dataclass(frozen=True, slots=True)
class Sums:
    """The terms of the batches of an epoch so far.

    Attributes:
        batches: how many.
        loss: the sum of their losses.
        parts: sums of values and of weights, by the term's name.
    """

    batches: int = 0
    loss: float = 0.0
    parts: Mapping[str, Part] = field(default_factory=dict)

    def plus(self, parts: Mapping[str, Part]) -> Sums:
        """With one more batch."""
        loss = sum(part.weight * part.value for part in parts.values())
        found = dict(self.parts)
        for name, part in parts.items():
            before = found.get(name, Part(0.0, 0.0))
            found[name] = Part(before.value + part.value, before.weight + part.weight)
        return Sums(self.batches + 1, self.loss + loss, found)

    def mean(self) -> tuple[float, dict[str, Part]]:
        """The loss and its parts, averaged over the batches."""
        count = max(1, self.batches)
        parts = {n: Part(p.value / count, p.weight / count) for n, p in self.parts.items()}
        return self.loss / count, parts


@dataclass(frozen=True, slots=True)
class Broken:
    """A batch whose loss is no number.

    Attributes:
        batch: its number in the epoch, from 0.
        part: the first of its terms that is none.
        parts: all of them.
    """

    batch: int
    part: str
    parts: Mapping[str, Part]


class Watch:
    """Collects the terms of each batch; they are read from the device now and then only.

    Args:
        sums: of the batches of this epoch that are done already.
        mean: the mean over all processes of a vector; what one process sees alone stays as it is.
    """

    def __init__(self, sums: Sums, mean: Callable[[Tensor], Tensor]) -> None:
        self.sums = sums
        self._mean = mean
        self._waiting: list[tuple[list[str], list[float], Tensor]] = []

    def add(self, parts: Sequence[Mapping[str, Term]]) -> None:
        """The terms of one batch, by the parts that it was calculated in."""
        first = parts[0]
        values = [torch.stack([terms[name].value.detach() for terms in parts]) for name in first]
        means = torch.stack([value.double().mean() for value in values])
        self._waiting.append((list(first), [term.weight for term in first.values()], means))

    def look(self) -> Broken | None:
        """Read what was added since the last look; the first batch that is no number, if any."""
        if not self._waiting:
            return None
        read = self._mean(torch.cat([means for *_, means in self._waiting])).tolist()
        waiting, self._waiting = self._waiting, []
        for names, weights, means in waiting:
            values, read = read[: len(means)], read[len(means) :]
            parts = {n: Part(v, w) for n, v, w in zip(names, values, weights, strict=True)}
            for name, part in parts.items():
                if not math.isfinite(part.value):
                    return Broken(self.sums.batches, name, parts)
            self.sums = self.sums.plus(parts)
        return None

    def begin(self) -> None:
        """A new epoch."""
        self.sums = replace(self.sums, batches=0, loss=0.0, parts={})
