"""Which channel counts this machine likes: measured, with the evidence.

Channels are written by one layer and read by the next, and what the runtime wants of a count shows
in both, and in the change of layout between them where a count suits neither. So what is timed is a
*pair*: a layer that writes c channels, and one that reads them, for many c.

A step s *costs* the mean, over the timed counts c, of t(c rounded up to a multiple of s) / t(c)
less 1. Below 0 it is a gain: more channels in less time. Steps that cost the same differ in how
many channels they keep, so the step to take is the largest that costs at most `TOLERANCE` more than
the cheapest one. The mean, and not the worst count, because one count at the foot of a stair (17,
where 16 takes half as long) says little, and because noise hits single counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from statistics import mean
from typing import TYPE_CHECKING

from deploykit.bench.layer_models import Probe, SizedLayer
from deploykit.bench.layer_survey import faster_half, half_width
from deploykit.bench.layer_table import fast_counts, rules_for, time_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deploykit.bench.layer_shapes import LayerShape
    from deploykit.core.measurement import Target
    from deploykit.core.progress import Progress

STEPS = (1, 2, 4, 8, 16, 32, 64)
"""Candidates."""

TOLERANCE = 0.01
"""A step may cost this much more than the cheapest one, on average over pairs."""

_WINDOW = 64  # counts that are timed lie in a window of this width: all kernels' blocks fit in
_GRAIN = 4  # every multiple of it in the window, and some beside multiples of 16
_BESIDE = (-2, -1, 1, 2)
_SMALLEST_SHARE = 0.25  # counts below this share of all are seldom what pruning ends with
_FEWEST_CHANNELS = 16
_MOST_PAIRS = 3


@dataclass(frozen=True, slots=True)
class CountLatency:
    """One point of a curve.

    Attributes:
        count: channels between the two layers.
        latency_ns: of both layers.
        half_width: of the latency's interval, as a share of it; `None` where it was timed once.
    """

    count: int
    latency_ns: float
    half_width: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Latency of a pair of layers over the channels between them.

    Attributes:
        writer: the layer that writes them, for people.
        reader: the layer that reads them, for people.
        full: how many there are before pruning.
        points: ascending by count.
    """

    writer: str
    reader: str
    full: int
    points: tuple[CountLatency, ...]

    @property
    def latency_ns(self) -> dict[int, float]:
        """By count."""
        return {point.count: point.latency_ns for point in self.points}

    def cost(self, step: int) -> float | None:
        """What rounding up to multiples of a step costs on average: 0.02 is 2 % slower.

        `None` where the step is more than half of the channels, or a multiple was not timed.
        """
        known = self.latency_ns
        judged = [count for count in known if count >= self.full * _SMALLEST_SHARE]
        above = [-(-count // step) * step for count in judged]
        if 2 * step > self.full or not judged or any(up not in known for up in above):
            return None
        pairs = zip(judged, above, strict=True)
        return sum(known[up] / known[count] for count, up in pairs) / len(judged) - 1


@dataclass(frozen=True, slots=True)
class StepCost:
    """What rounding to one step costs.

    Attributes:
        step: channel counts are rounded up to its multiples.
        cost: mean over pairs, as a share of latency: -0.06 is 6 % faster than not rounding.
        regret: mean over pairs of what it costs more than the pair's cheapest step.
    """

    step: int
    cost: float
    regret: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """What to round channel counts to, and why.

    Attributes:
        step: kept counts should be multiples of it; 1 where nothing is gained.
        costs: of every step that could be judged, ascending.
        curves: what it was read from, one for each pair that was timed.
    """

    step: int
    costs: tuple[StepCost, ...] = ()
    curves: tuple[Curve, ...] = ()

    def counts(self, full: int) -> tuple[int, ...]:
        """The counts to choose from in a group of so many channels, ascending; `full` is one.

        Multiples of the step, less those that were timed and are nowhere worth it: on every pair,
        a larger multiple is as fast (8 channels in INT8, where 16 take less time).
        """
        multiples = [*range(self.step, full, self.step), full]
        return tuple(count for count in multiples if count == full or not self._wasted(count))

    def _wasted(self, count: int) -> bool:
        seen = [curve.latency_ns for curve in self.curves if count in curve.latency_ns]
        multiples = [{c: t for c, t in known.items() if c % self.step == 0} for known in seen]
        return bool(seen) and all(count not in fast_counts(known) for known in multiples)


def measure_alignment(
    layers: Mapping[str, LayerShape],
    target: Target,
    folder: Path,
    *,
    progress: Progress,
    budget_s: float = 30.0,
) -> Alignment:
    """Time pairs of a network's costliest layers over many counts, as far as not known yet.

    The arguments and errors are those of `deploykit.bench.layer_table.measure_table`. A network
    without layers of 16 channels or more has a step of 1 and no curves.
    """
    pairs = {writer: mirrored(writer) for writer in typical(layers)}
    wanted = {
        writer: {
            count: Probe(
                (
                    SizedLayer(writer, writer.inputs, count),
                    SizedLayer(reader, count, reader.outputs),
                )
            )
            for count in counts_to_time(writer)
        }
        for writer, reader in pairs.items()
    }
    probes = [probe for by_count in wanted.values() for probe in by_count.values()]
    if not probes:
        return Alignment(1)
    blocks = time_all(probes, target, folder, rules_for(layers, budget_s), progress)
    curves = [
        Curve(
            writer.text,
            pairs[writer].text,
            writer.outputs,
            tuple(
                CountLatency(count, faster_half(blocks[probe]), half_width(blocks[probe]))
                for count, probe in by_count.items()
            ),
        )
        for writer, by_count in wanted.items()
    ]
    return aligned_to(curves)


def aligned_to(curves: Sequence[Curve]) -> Alignment:
    """The step that curves speak for; see the module."""
    costs = tuple(found for step in STEPS if (found := _step_cost(curves, step)) is not None)
    cheap = [found.step for found in costs if found.regret <= TOLERANCE]
    return Alignment(max(cheap, default=1), costs, tuple(curves))


def _step_cost(curves: Sequence[Curve], step: int) -> StepCost | None:
    judged = [(curve, cost) for curve in curves if (cost := curve.cost(step)) is not None]
    if not judged:
        return None
    regrets = [cost - _least_cost(curve) for curve, cost in judged]
    return StepCost(step, mean(cost for _, cost in judged), mean(regrets))


def _least_cost(curve: Curve) -> float:
    return min(cost for step in STEPS if (cost := curve.cost(step)) is not None)


def typical(layers: Mapping[str, LayerShape]) -> tuple[LayerShape, ...]:
    """The layers to time: those of 16 channels or more that take the most multiplications.

    Groups of channels within a layer have counts of their own, so that grouped ones are left out.
    """
    times = Counter(
        shape
        for shape in layers.values()
        if min(shape.outputs, shape.inputs) >= _FEWEST_CHANNELS and shape.groups == 1
    )
    work = {shape: _macs(shape) * count for shape, count in times.items()}
    return tuple(sorted(work, key=lambda shape: -work[shape])[:_MOST_PAIRS])


def mirrored(writer: LayerShape) -> LayerShape:
    """A layer of the same kind that reads what `writer` writes and gives back as many channels.

    Where the kernel does not fit into what is written, it is a pointwise one.
    """
    reader = replace(
        writer,
        inputs=writer.outputs,
        outputs=writer.inputs,
        spatial=writer.output_spatial,
        stride=(1,) * len(writer.stride),
        output_padding=(0,) * len(writer.output_padding),
    )
    if min(reader.output_spatial, default=1) >= 1:
        return reader
    ones = (1,) * len(writer.kernel)
    return replace(reader, kernel=ones, dilation=ones, padding=(0,) * len(writer.padding))


def counts_to_time(shape: LayerShape) -> tuple[int, ...]:
    """Counts of outputs: a window around half of the channels, or all of up to 64 of them."""
    full = shape.outputs
    low = 0 if full <= _WINDOW else (full // 2 - _WINDOW // 2) // 16 * 16
    high = min(full, low + _WINDOW)
    counts = set(range(low + _GRAIN, high + 1, _GRAIN)) | {high}
    for middle in range(low, high + 1, 16):
        counts |= {middle + beside for beside in _BESIDE}
    counts |= {count + _GRAIN // 2 for count in range(low + _GRAIN, high, 2 * _GRAIN)}
    return tuple(count for count in sorted(counts) if max(low, _GRAIN - 1) < count <= high)


def _macs(shape: LayerShape) -> int:
    weight = prod(shape.weight_shape(shape.inputs, shape.outputs))
    places = shape.spatial if shape.kind == "conv_transpose" else shape.output_spatial
    return weight * prod(places) * shape.batch
