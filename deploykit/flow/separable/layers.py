"""The convolutions of one network: which can be split, which get faster by it, what is left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from deploykit.compress.separable.plan import SeparablePlan, SplitLayer
from deploykit.core.errors import BadInputError
from deploykit.flow.separable.latency import Timing, time_layers
from deploykit.flow.separable.record import LayerRow
from deploykit.load.calls import arguments
from deploykit.load.synthetic import choose_sizes, synthetic_feeds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploykit.compress.separable.choose import Choice
    from deploykit.compress.separable.options import SeparableOptions
    from deploykit.compress.separable.refit import Fit
    from deploykit.core.types import Model
    from deploykit.flow.prune.latency import Bench

_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class Layers:
    """Every convolution of a network.

    Attributes:
        choices: in the order of computation, then those that are never called.
        places: that each computes for one sample, by name.
        timings: of those that were timed, by name.
    """

    choices: tuple[Choice, ...]
    places: Mapping[str, int]
    timings: Mapping[str, Timing] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, options: SeparableOptions) -> Layers:
        """Look at a network.

        Raises:
            BadInputError: there is nothing to split, or a layer that was named is not there.
        """
        from deploykit.compress.separable.choose import choices
        from deploykit.compress.separable.graph_layers import with_layers
        from deploykit.compress.separable.observe import places_of

        module = with_layers(model.module).eval()
        found = {choice.name: choice for choice in choices(module, options)}
        if not found:
            raise BadInputError("there is nothing to split: the network has no convolution")
        fed = synthetic_feeds(model.inputs, choose_sizes(model.inputs), seed=0)
        places = places_of(module, found, arguments(module, model.inputs, fed))
        for name in found.keys() - places.keys():
            why = found[name].why or "is never called as a module"
            found[name] = replace(found[name], why=why)
        order = [*places, *(name for name in found if name not in places)]
        layers = cls(tuple(found[name] for name in order), places)
        if not layers.plan.layers:
            raise BadInputError(layers.nothing_text)
        return layers

    def timed(self, bench: Bench, whole: Path, *, force: bool) -> Layers:
        """With those left whole that would not get faster, unless that is forced.

        Args:
            bench: where latencies are taken.
            whole: artifact of the network, of this bench.
            force: time them, and split them all the same.
        """
        shapes = bench.layers(whole)
        wanted = {one.name: shapes.get(f"{one.name}.weight") for one in self.choices if not one.why}
        known = {name: shape for name, shape in wanted.items() if shape is not None}
        ranks = {choice.name: choice.rank for choice in self.choices}
        timings = time_layers(known, ranks, bench.target, bench.tables, bench.progress)
        if force:
            return replace(self, timings=timings)
        judged = tuple(
            choice if choice.why else replace(choice, why=_slow(timings.get(choice.name)))
            for choice in self.choices
        )
        return replace(self, choices=judged, timings=timings)

    @property
    def plan(self) -> SeparablePlan:
        """What will be split."""
        return SeparablePlan(
            tuple(SplitLayer(one.name, one.rank, one.weight) for one in self.choices if not one.why)
        )

    @property
    def nothing_text(self) -> str:
        """Why no layer will be split, in one line."""
        slow = [one for one in self.choices if one.name in self.timings]
        if slow:
            shares = {n: t.after_ns / t.before_ns for n, t in self.timings.items()}
            best = min(shares, key=lambda name: shares[name])
            return (
                f"separable convolutions cannot help here: none of {len(slow)} layers that can be "
                f"split gets faster; the nearest, {best}, takes {shares[best]:.3g}x of its time "
                "(--force splits them all the same)"
            )
        shown = [f"{one.name} {one.why}" for one in self.choices[:_MOST_REASONS]]
        more = len(self.choices) - len(shown)
        rest = f", and so on for {more} more" if more else ""
        return f"there is nothing to split: {', '.join(shown)}{rest}"

    def rows(self, fits: Mapping[str, Fit]) -> tuple[LayerRow, ...]:
        """The record of each."""
        return tuple(self._row(choice, fits.get(choice.name)) for choice in self.choices)

    def _row(self, choice: Choice, fit: Fit | None) -> LayerRow:
        places, timing = self.places.get(choice.name, 0), self.timings.get(choice.name)
        after = choice.whole if choice.why else choice.split
        return LayerRow(
            name=choice.name,
            weight=choice.weight,
            groups=choice.groups,
            rank=choice.rank,
            split=not choice.why,
            why=choice.why,
            weights_before=choice.whole,
            weights_after=after,
            macs_before=choice.whole * places,
            macs_after=after * places,
            latency_before_ns=timing.before_ns if timing else None,
            latency_after_ns=timing.after_ns if timing else None,
            margin=timing.margin if timing else None,
            error_nearest=fit.nearest if fit else None,
            error_fitted=fit.fitted if fit else None,
        )


def _slow(timing: Timing | None) -> str:
    """Why a layer stays whole that could be split, or ""."""
    if timing is None:
        return "is no layer of its own in the exported graph, so that nobody can tell its time"
    if timing.faster:
        return ""
    share = timing.after_ns / timing.before_ns
    if share < 1:
        return f"would take {share:.3g}x of its time, which is no more than the noise"
    return f"would take {share:.3g}x of its time"
