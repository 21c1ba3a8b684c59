"""How long each layer of a network takes with fewer channels: timed on the runtime that ships.

The sum over layers is what guides hardware-aware pruning (Yang et al., "NetAdapt", ECCV 2018,
section 3.3, and Cai et al., "ProxylessNAS", ICLR 2019, section 3.3, sum up such tables). It leaves
out what is not in a convolution or matrix product: pooling, residual sums that the runtime does
not fuse, softmax, the calls themselves. So a table ranks and steers; what is promised is measured
on the whole network.

What is assumed: a layer's input is in the caches, for the layer before has just written it; its
weights are where a network of the same size leaves them between two calls (`SurveyRules`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

from deploykit.bench.layer_cache import LayerCache
from deploykit.bench.layer_grid import LINE_COUNTS, Surface, grid_of, points_of
from deploykit.bench.layer_models import Probe, SizedLayer
from deploykit.bench.layer_survey import SurveyRules, faster_half, half_width, measuring, survey
from deploykit.bench.machine import machine_facts
from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deploykit.bench.layer_shapes import LayerShape
    from deploykit.core.measurement import Target
    from deploykit.core.progress import Progress

TOLERANCE = 0.02
"""Latencies that are closer than this count as equal."""


@dataclass(frozen=True, slots=True)
class TableError:
    """How far the table's formula is off where it was timed to check it.

    Attributes:
        checks: how many pairs of counts.
        median: of the shares by which it was off, without sign.
        largest: of them.
    """

    checks: int
    median: float
    largest: float


@dataclass(frozen=True, slots=True, eq=False)
class LatencyTable:
    """Latency of a network's layers over their channel counts.

    Attributes:
        layers: the shape of each layer, by the name of its weight.
        surfaces: latency over counts, by shape.
        half_widths: median and largest half-width of the timed points' intervals, as shares, or
            `None` where each was timed once only.
    """

    layers: Mapping[str, LayerShape]
    surfaces: Mapping[LayerShape, Surface]
    half_widths: tuple[float, float] | None = field(default=None)

    def latency_ns(self, shape: LayerShape, inputs: int, outputs: int) -> float:
        """Nanoseconds of a layer with so many channels.

        Raises:
            BadInputError: a shape that was not timed, or counts beyond the full ones.
        """
        return self._surface(shape).at(inputs, outputs)

    def predict(self, counts: Mapping[str, tuple[int, int]]) -> float:
        """Nanoseconds of all layers together.

        Args:
            counts: inputs and outputs by the name of the weight; layers that are not named are
                whole.

        Raises:
            BadInputError: a name that the network does not have, or counts beyond the full ones.
        """
        for name in counts:
            if name not in self.layers:
                raise BadInputError(f"the table has no layer {name!r}{nearest(name, self.layers)}")
        return sum(
            self.latency_ns(shape, *counts.get(name, (shape.inputs, shape.outputs)))
            for name, shape in self.layers.items()
        )

    def error(self) -> TableError | None:
        """Over all layers; `None` where none is large enough to be checked."""
        off = [abs(share) for surface in self.surfaces.values() for share in surface.errors()]
        return TableError(len(off), median(off), max(off)) if off else None

    def good_counts(
        self, shape: LayerShape, side: str = "out", tolerance: float = TOLERANCE
    ) -> tuple[int, ...]:
        """The counts of one side that no larger count is as fast as, ascending.

        Only timed counts are judged, multiples of 4 or more. It sees this layer alone: where
        channels are written by one layer and read by another, ask `fast_counts` with the sum.

        Args:
            shape: the layer; its other side is whole.
            side: "in" or "out".
            tolerance: latencies that are closer than this share count as equal.

        Raises:
            BadInputError: a shape that was not timed, or no such side.
        """
        if side not in ("in", "out"):
            raise BadInputError(f'a side is "in" or "out", not {side!r}')
        return fast_counts(self._surface(shape).line(side), tolerance)

    def _surface(self, shape: LayerShape) -> Surface:
        if shape not in self.surfaces:
            known = ", ".join(known.text for known in self.surfaces)
            raise BadInputError(f"{shape.text} was not timed; known: {known}")
        return self.surfaces[shape]


def fast_counts(latency_ns: Mapping[int, float], tolerance: float = TOLERANCE) -> tuple[int, ...]:
    """The counts that no larger one is as fast as, ascending: the Pareto front.

    Args:
        latency_ns: by count.
        tolerance: a smaller count must be faster by more than this share than every larger one.
    """
    kept: list[int] = []
    least = float("inf")
    for count in sorted(latency_ns, reverse=True):
        if latency_ns[count] < least * (1 - tolerance):
            kept.append(count)
            least = latency_ns[count]
    return tuple(reversed(kept))


def measure_table(
    layers: Mapping[str, LayerShape],
    target: Target,
    folder: Path,
    *,
    progress: Progress,
    budget_s: float = 60.0,
    counts: int = LINE_COUNTS,
) -> LatencyTable:
    """Time a network's layers, as far as `folder` does not know them yet.

    Layers of equal shape are timed once. What was timed is kept after every few models, so that an
    interrupted table goes on.

    Args:
        layers: from `layer_shapes`, with the batch and the precision that will ship.
        target: threads, CPUs and options that will ship.
        folder: of the files that are kept.
        progress: told where it stands.
        budget_s: about how long; the first timing of each point is always done.
        counts: the most counts on a line, a finer table for more.

    Raises:
        BadInputError: a runtime whose layers cannot be timed, or a damaged file in `folder`.
        EnvironmentFailedError: the measuring process died, or `folder` cannot be written.
    """
    grids = {shape: grid_of(shape, counts) for shape in layers.values()}
    wanted = {
        shape: {pair: single(shape, *pair) for pair in points_of(shape, grid)}
        for shape, grid in grids.items()
    }
    probes = [probe for by_pair in wanted.values() for probe in by_pair.values()]
    rules = rules_for(layers, budget_s)
    blocks = time_all(probes, target, folder, rules, progress)
    surfaces = {
        shape: Surface(shape, grids[shape], {p: faster_half(blocks[x]) for p, x in by_pair.items()})
        for shape, by_pair in wanted.items()
    }
    widths = [width for own in blocks.values() if (width := half_width(own)) is not None]
    return LatencyTable(dict(layers), surfaces, (median(widths), max(widths)) if widths else None)


def single(shape: LayerShape, inputs: int, outputs: int) -> Probe:
    """One layer with so many channels."""
    return Probe((SizedLayer(shape, inputs, outputs),))


def rules_for(layers: Mapping[str, LayerShape], budget_s: float) -> SurveyRules:
    """A budget, and models whose weights are as large as the network's."""
    weights = sum(shape.weight_bytes(shape.inputs, shape.outputs) for shape in layers.values())
    rules = SurveyRules(budget_ns=round(budget_s * 1e9))
    return replace(rules, weight_bytes=max(weights, 1))


def time_all(
    probes: Sequence[Probe],
    target: Target,
    folder: Path,
    rules: SurveyRules,
    progress: Progress,
) -> dict[Probe, tuple[float, ...]]:
    """Time what is not known yet, and keep it; see `measure_table`."""
    from deploykit.bench.layer_timing import check_target

    check_target(target)
    twice = [probe for probe, times in Counter(probes).items() if times > 1]
    assert not twice, twice
    cache = LayerCache(folder, machine_facts(), target)
    try:
        with measuring(target, rules) as time_block:
            return survey(
                probes, cache.blocks, rules, time_block, keep=cache.keep, progress=progress
            )
    finally:
        cache.save()
