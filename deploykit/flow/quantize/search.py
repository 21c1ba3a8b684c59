"""Accuracy control: from "INT8 loses too much" to the most in integers that does not.

Cheap things first: other ways to choose ranges, and whatever else costs nothing on the device.
Then the layers that do the most harm go back to float, as few as will do: 1, 2, 4, ... of them
until the loss is met, then halving in between, then some of them are quantized again. It knows
nothing of networks: trials are judged by a callable, layers ranked by another. What it tried is
kept, so that the best is at hand at every moment; a spent budget ends it there.

The last evaluation of a budget is the surest: if nothing has met the loss yet, all layers but the
most harmless one are in float.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deploykit.core.types import Option
    from deploykit.flow.budget import Purse

_CHEAP_SHARE = 0.5
"""Of the budget, at most, before layers go back to float."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to quantize.

    Attributes:
        changes: options that differ from those asked for.
        floats: layers given back to float, the most harmful first.
    """

    changes: Mapping[str, Option] = field(default_factory=dict)
    floats: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """In words."""
        said = [n if value is True else f"{n} {value}" for n, value in self.changes.items()]
        count = len(self.floats)
        said += [f"{count} layer{'s' * (count > 1)} in float"] if count else []
        return ", ".join(said) or "as asked"


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a trial.

    Attributes:
        lost: in the limit's unit; infinity where it could not be judged.
        samples: it was judged on.
        met: whether it lost no more than is allowed, on all samples.
    """

    lost: float
    samples: int
    met: bool


@dataclass(frozen=True, slots=True)
class Try:
    """A trial and what became of it."""

    trial: Trial
    judged: Judged


class Judge(Protocol):
    """Evaluates trials."""

    def __call__(self, trial: Trial) -> Judged:
        """One evaluation."""


class Rank(Protocol):
    """Orders layers."""

    def __call__(self, trial: Trial) -> Sequence[str]:
        """Those that a trial quantizes and that could be float, the most harmful first."""


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search.

    Attributes:
        best: the trial with the fewest layers in float that met the limit; where none did, the
            one that lost least.
        tries: all, in order.
        complete: whether the search ended by itself, not for its budget.
    """

    best: Try
    tries: tuple[Try, ...]
    complete: bool


def search(judge: Judge, cheap: Sequence[Mapping[str, Option]], rank: Rank, purse: Purse) -> Found:
    """Look for the quantization with the most in integers that loses no more than is allowed.

    Args:
        judge: evaluates a trial.
        cheap: changes of options that cost nothing on the device, to be tried in this order; each
            on top of the best so far.
        rank: asked once, when layers are to go back to float.
        purse: the budget; the first evaluation is made whatever it is.
    """
    work = _Search(judge, rank, purse)
    complete = True
    try:
        work.first()
        if not work.best.judged.met:
            work.settings(cheap)
        if not work.best.judged.met:
            work.give_back()
        work.take_again()
    except _SpentError:
        complete = False
    return Found(work.best, tuple(work.tries), complete)


class _SpentError(Exception):
    """The budget is spent."""


@dataclass(slots=True, eq=False)
class _Search:
    """A search under way."""

    judge: Judge
    rank: Rank
    purse: Purse
    tries: list[Try] = field(default_factory=list)

    @property
    def best(self) -> Try:
        """So far."""
        met = [one for one in self.tries if one.judged.met]
        if met:
            return min(met, key=lambda one: (len(one.trial.floats), one.judged.lost))
        return min(self.tries, key=lambda one: one.judged.lost)

    def first(self) -> None:
        """What was asked for."""
        self._evaluate(Trial())

    def settings(self, cheap: Sequence[Mapping[str, Option]]) -> None:
        """Each change on top of the best so far, until the limit is met."""
        for change in cheap:
            if self.purse.share >= _CHEAP_SHARE:
                return
            known = self.best.trial.changes
            if all(name in known and known[name] == value for name, value in change.items()):
                continue
            if self._try(Trial({**known, **change})).met:
                return

    def give_back(self) -> None:
        """The worst layers, as few as will do."""
        trial = self.best.trial
        order = tuple(self.rank(trial))
        most = len(order) - 1  # with none left there would be nothing to hand over
        if most < 1:
            return
        below, count = 0, 1
        while not self._try(Trial(trial.changes, order[:count]), surest=order[:most]).met:
            if count == most:
                return
            below, count = count, min(2 * count, most)
        while count - below > 1:
            middle = (below + count) // 2
            met = self._try(Trial(trial.changes, order[:middle])).met
            below, count = (below, middle) if met else (middle, count)

    def take_again(self) -> None:
        """Layers that went back although the limit is met without that, in parts and one by one."""
        best = self.best
        if not best.judged.met:
            return
        size = len(best.trial.floats) // 2
        while size:
            for part in _parts(self.best.trial.floats, size):
                floats = tuple(name for name in self.best.trial.floats if name not in part)
                if floats:
                    self._try(Trial(self.best.trial.changes, floats))
            size //= 2

    def _try(self, trial: Trial, surest: tuple[str, ...] = ()) -> Judged:
        """One evaluation, if there is budget for it.

        Args:
            trial: to evaluate.
            surest: what is in float instead if it is the last evaluation and nothing is met yet.
        """
        for one in self.tries:
            if one.trial == trial:
                return one.judged
        if self.purse.share >= 1:
            raise _SpentError
        if surest and self.purse.last and not self.best.judged.met:
            trial = Trial(trial.changes, surest)
        return self._evaluate(trial)

    def _evaluate(self, trial: Trial) -> Judged:
        found = self.judge(trial)
        self.purse.spent += 1
        self.tries.append(Try(trial, found))
        return found


def _parts(names: Sequence[str], size: int) -> Iterator[frozenset[str]]:
    """So many at a time, the least harmful first."""
    for end in range(len(names), 0, -size):
        yield frozenset(names[max(end - size, 0) : end])


NOTHING = Judged(inf, 0, met=False)
"""Of a trial that could not be made or run."""
