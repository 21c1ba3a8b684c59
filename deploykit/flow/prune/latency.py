"""Prune to a latency: a table of layers guides the choice, the whole network has the last word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from deploykit.core.measurement import Target
from deploykit.core.progress import silent
from deploykit.export.options import ExportOptions
from deploykit.flow.prune.precision import quantized_beside, quantized_name
from deploykit.flow.side_by_side import RUNTIME, side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from deploykit.bench.alignment import Alignment
    from deploykit.bench.layer_shapes import LayerShape
    from deploykit.bench.layer_table import LatencyTable
    from deploykit.compress.prune.choice.footprint import Footprint, Kept
    from deploykit.compress.prune.choice.select import Selection
    from deploykit.compress.prune.structure import Group
    from deploykit.core.progress import Progress
    from deploykit.core.types import Model
    from deploykit.flow.side_by_side import SideBySide

_LOWEST, _HIGHEST = 0.93, 0.99
"""A measured latency within these shares of the aim is taken at once; the rest is noise's."""
_WISH = 0.97
_STEP_DOWN = 0.95
_LEAST_LEFT = 0.02
_MOST_TRIES = 6


@dataclass(frozen=True, slots=True)
class Bench:
    """Where latencies are taken.

    Attributes:
        folder: for artifacts.
        tables: for what is kept of layers between runs.
        batch: of a call; `None` takes the smallest that the network allows.
        threads: `None` leaves it to the runtime.
        progress: told where it stands.
        precision: that layers are timed in; with "int8" whole networks are quantized for it, in
            any other they are timed in float32.
    """

    folder: Path
    tables: Path
    batch: int | None
    threads: int | None
    progress: Progress
    precision: str = "float32"

    @property
    def target(self) -> Target:
        """What layers are timed on."""
        return Target(runtime=RUNTIME, threads=self.threads, batch=self.batch or 1)

    @property
    def circumstances(self) -> str:
        """A name for the machine and all else that a latency depends on, but for the network."""
        from deploykit.bench.layer_cache import key_of
        from deploykit.bench.machine import machine_facts

        return f"{key_of(machine_facts(), self.target)}-{self.batch}-{self.precision}"

    def exported(self, model: Model, name: str) -> Path:
        """The network as a float ONNX artifact in the folder; made anew, as what is timed is.

        Raises:
            BadInputError: it is to be timed in INT8 and cannot be quantized.
        """
        from deploykit.export.torch_to_onnx import export_model

        place = self.folder / name
        for file in place.iterdir() if place.is_dir() else ():
            file.unlink()
        place.mkdir(parents=True, exist_ok=True)
        export_model(model, place, ExportOptions())
        if self.precision == "int8":
            quantized_beside(place, silent)
        return place

    def compare(self, whole: Path, part: Path, *, careful: bool = False) -> SideBySide:
        """Measure two artifacts that `exported` made, in turns, as they will ship.

        Raises:
            DeploykitError: one of them does not run.
        """
        quantized = self.precision == "int8"
        timed = [quantized_name(one) if quantized else one for one in (whole, part)]
        found = side_by_side(
            *timed,
            batch=self.batch,
            threads=self.threads,
            careful=careful,
            progress=self.progress,
        )
        return replace(found, precision=self.precision if quantized else "")

    def layers(self, whole: Path) -> dict[str, LayerShape]:
        """The layers of an artifact that pruning makes faster."""
        from deploykit.bench.layer_shapes import layer_shapes
        from deploykit.load.artifacts import load_artifact

        return layer_shapes(load_artifact(whole), self.batch, self.precision)

    def table(self, layers: Mapping[str, LayerShape]) -> LatencyTable:
        """Latencies of layers by channel counts: measured once, then kept."""
        from deploykit.bench.layer_table import measure_table

        return measure_table(layers, self.target, self.tables, progress=self.progress)

    def alignment(self, layers: Mapping[str, LayerShape]) -> Alignment:
        """The multiples of channels that this machine likes: measured once, then kept."""
        from deploykit.bench.alignment import measure_alignment

        return measure_alignment(layers, self.target, self.tables, progress=self.progress)


def predictor(table: LatencyTable, sizes: Footprint) -> Callable[[Kept], float]:
    """Nanoseconds of all layers of the table when so many channels stay."""

    def cost(kept: Kept) -> float:
        shapes = sizes.shapes(kept)
        return table.predict(
            {
                name: counts_at(shape, shapes[name])
                for name, shape in table.layers.items()
                if name in shapes
            }
        )

    return cost


def counts_at(layer: LayerShape, weight: tuple[int, ...]) -> tuple[int, int]:
    """Channels that a layer reads and writes, from the shape of its weight in PyTorch."""
    if layer.kind == "conv_transpose":
        return weight[0], weight[1] * _groups(layer, weight[0], weight[1], layer.outputs)
    if layer.groups == 1:
        return (weight[1], weight[0]) if len(weight) > 1 else (weight[0], 1)
    return weight[1] * _groups(layer, weight[0], weight[1], layer.inputs), weight[0]


def _groups(layer: LayerShape, along: int, inside: int, channels: int) -> int:
    """Groups of a convolution that are left: all, or those whose inside is whole.

    Args:
        layer: at full size.
        along: size of the weight's dimension that runs over all groups.
        inside: size of the one that is of a single group.
        channels: of the whole layer on the side of `inside`.
    """
    other = layer.inputs + layer.outputs - channels
    each = other // layer.groups
    went = inside == channels // layer.groups and along % each == 0
    return max(1, along // each) if went else layer.groups


def steps_of(groups: tuple[Group, ...], alignment: Alignment) -> dict[str, tuple[int, ...]]:
    """What each group may keep, in indices of its largest writer."""
    return {group.name: alignment.counts(group.channels * group.unit) for group in groups}


class TryOut(Protocol):
    """Measures a selection beside the original."""

    def __call__(self, selection: Selection, *, careful: bool) -> SideBySide:
        """Quickly, or as carefully as what is handed over."""


def aimed(
    share: float,
    choose: Callable[[float], Selection],
    try_out: TryOut,
    progress: Progress,
) -> tuple[Selection, SideBySide]:
    """The selection whose measured latency is at most the aim, and as little below as can be.

    Args:
        share: of the original's latency.
        choose: a selection that leaves such a share of the predicted latency.
        try_out: measures a selection beside the original. What seems to be it is measured once
            more, as carefully as it will be in the end.
        progress: told after every try.

    Returns:
        The best that was tried: the slowest one within the aim, else the fastest of all.
    """
    tried: list[Try] = []
    left = share * _WISH
    for number in range(_MOST_TRIES):
        left, selection = _untried(share, left, choose, tried)
        if selection is None:
            break
        found = try_out(selection, careful=False)
        if _is_near(found, share):
            found = try_out(selection, careful=True)
        tried.append(Try(left, selection, found))
        progress(f"try {number + 1}: {found.share:.3f}x measured, aim {share:g}x", None)
        if _is_near(found, share) or (found.share > share and not selection.met):
            break
        left = _next(tried, share * _WISH)
    best = _best(tried, share)
    return best.selection, best.found


class Try(NamedTuple):
    """A selection that was measured.

    Attributes:
        left: the share of the predicted latency that was asked for.
        selection: what came of it.
        found: what it takes.
    """

    left: float
    selection: Selection
    found: SideBySide


def _is_near(found: SideBySide, share: float) -> bool:
    return _LOWEST * share <= found.share <= _HIGHEST * share


def _best(tried: list[Try], share: float) -> Try:
    """The slowest within the aim, with room for noise where that can be; else the fastest."""
    for limit in (_HIGHEST * share, share):
        within = [entry for entry in tried if entry.found.share <= limit]
        if within:
            return max(within, key=lambda entry: entry.found.share)
    return min(tried, key=lambda entry: entry.found.share)


def _untried(
    share: float, left: float, choose: Callable[[float], Selection], tried: list[Try]
) -> tuple[float, Selection | None]:
    """The next selection, and what it was asked for; none where all there is was tried.

    Whole channels and their alignment make stairs: as long as nothing is within the aim, the next
    step down is looked for.
    """
    while True:
        selection = choose(left)
        if not any(_same(selection, entry.selection) for entry in tried):
            return left, selection
        reached = any(entry.found.share <= share for entry in tried)
        if reached or not selection.met or left < _LEAST_LEFT:
            return left, None
        left *= _STEP_DOWN


def _same(one: Selection, other: Selection) -> bool:
    counts = {name: len(gone) for name, gone in one.removed.items()}
    return counts == {name: len(gone) for name, gone in other.removed.items()}


def _next(tried: list[Try], aim: float) -> float:
    """Where the line through the two nearest tries meets the aim; through 1 from one try."""
    points = sorted(
        ((entry.left, entry.found.share) for entry in tried), key=lambda p: abs(p[1] - aim)
    )
    (x0, y0), (x1, y1) = (points[0], points[1]) if len(points) > 1 else (points[0], (1.0, 1.0))
    slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 1.0
    slope = min(max(slope, 0.3), 3.0)
    return min(max(x0 + (aim - y0) / slope, _LEAST_LEFT), 0.98)
