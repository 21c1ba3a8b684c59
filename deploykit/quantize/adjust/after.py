"""The quantized graph made nearer to its float parent: layer by layer, each on what it gets.

Both networks walk over the data side by side. At every layer with integer weights the quantized
one, adjusted so far, gives the layer's input, and the float one what should come out: first the
weights are rounded, then the bias takes back what is left of the mean. Layers behind it see that.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.quantize.adjust.correct import correct_bias
from deploykit.quantize.adjust.integers import IntegerGraph
from deploykit.quantize.adjust.round import round_weight
from deploykit.quantize.adjust.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

    from deploykit.core.progress import Progress
    from deploykit.load.data import Array
    from deploykit.quantize.place.targets import Placement
    from deploykit.quantize.prepare.prepare import Prepared

MOST_BYTES = 2_000_000_000
"""Of both networks' values that wait on the disk: no more batches are used than fit."""
CORRECTION_SAMPLES = 128
"""Enough for means of channels: a network of depthwise layers got no better with 512 of them."""


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What was done to the layers of a quantized graph.

    Attributes:
        corrected: names of the layers whose bias changed, each with the largest change of a
            channel, in units of the layer's result.
        rounded: names of the layers whose weights were rounded otherwise, each with the error
            that is left on rows held out, as a share of that of the nearest integers.
    """

    corrected: tuple[tuple[str, float], ...] = ()
    rounded: tuple[tuple[str, float], ...] = ()


def adjust(
    prepared: Prepared,
    model: onnx.ModelProto,
    placement: Placement,
    batches: Iterable[Mapping[str, Array]],
    *,
    rounding: bool,
    correction: bool,
    batch_bytes: int = 0,
    threads: int = 0,
    progress: Progress,
) -> Adjusted:
    """Round weights and correct biases. Changes `model`.

    Args:
        prepared: the float graph.
        model: quantized from it; node names are the same.
        placement: of the target.
        batches: inputs by name, read once; the first that fit on the disk, and that are enough.
        rounding: whether weights are rounded anew (`gptq.py`).
        correction: whether biases are corrected (`correct.py`).
        batch_bytes: the most that is alive of one network for one batch.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told at every layer.

    Raises:
        BadInputError: there is no batch.
    """
    graph = IntegerGraph(model, placement.weight_bits)
    if correction:
        for layer in list(graph.layers()):
            if graph.bias(layer) is not None:
                graph.own_bias(layer, integer=placement.bias)
    layers = list(graph.layers())
    corrected: list[tuple[str, float]] = []
    rounded: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        walks = [
            _walk(prepared.model, prepared.folder, Path(folder) / "float", threads),
            _walk(model, None, Path(folder) / "quantized", threads),
        ]
        most = max(1, MOST_BYTES // max(2 * batch_bytes, 1))
        _feed(walks, batches, most, None if rounding else CORRECTION_SAMPLES)
        for number, layer in enumerate(layers):
            name = layer.node.name
            progress(f"adjusting {name}", number / len(layers))
            for walk in walks:
                walk.until(name)
            if (
                rounding
                and (left := round_weight(graph, prepared, layer, walks, centred=correction))
                is not None
            ):
                rounded.append((name, left))
            if correction and graph.bias(layer) is not None:
                moved = correct_bias(graph, layer, *(walk.results(name) for walk in walks))
                corrected.append((name, moved))
    return Adjusted(tuple(corrected), tuple(rounded))


def _walk(model: onnx.ModelProto, origin: Path | None, folder: Path, threads: int) -> Walk:
    folder.mkdir()
    return Walk(model, origin, folder, threads)


def _feed(
    walks: Iterable[Walk],
    batches: Iterable[Mapping[str, Array]],
    most: int,
    most_samples: int | None,
) -> None:
    count = samples = 0
    for batch in batches:
        for walk in walks:
            walk.feed(batch)
        count += 1
        samples += max((len(one) for one in batch.values() if one.ndim), default=1)
        if count == most or (most_samples is not None and samples >= most_samples):
            return
    if not count:
        raise BadInputError("there is no calibration data: give --calibrate some samples")
