"""Quantization from end to end: a prepared float graph and data become a QDQ graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, nearest
from deploykit.core.progress import Progress, silent
from deploykit.quantize.adjust.after import Adjusted, adjust
from deploykit.quantize.adjust.before import Rescaled, equalise, smooth
from deploykit.quantize.adjust.walk import alive_bytes
from deploykit.quantize.calibrate.calibrate import Memory, calibrate, wanted_of
from deploykit.quantize.calibrate.observe import observer
from deploykit.quantize.graph.values import Graph
from deploykit.quantize.graph.wiring import Wiring
from deploykit.quantize.options import SMOOTH_OFF
from deploykit.quantize.place.decide import decide
from deploykit.quantize.place.emit import emit
from deploykit.quantize.place.saturation import resolved
from deploykit.quantize.place.targets import placement_named
from deploykit.quantize.prepare.depthwise import as_depthwise
from deploykit.quantize.prepare.fuse_hard import fuse_hard

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    import onnx

    from deploykit.load.data import Array
    from deploykit.quantize.calibrate.observe import Observer
    from deploykit.quantize.calibration_options import CalibrationOptions
    from deploykit.quantize.options import QuantizeOptions
    from deploykit.quantize.place.decide import Decision
    from deploykit.quantize.place.targets import Placement
    from deploykit.quantize.prepare.prepare import Prepared
    from deploykit.quantize.ranges import Range

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A quantized graph, and how it came to be.

    Attributes:
        model: with QuantizeLinear and DequantizeLinear.
        decision: which nodes are quantized, and why others are not.
        ranges: of the values that have a quantizer.
        adjusted: layers whose weights or biases were changed to be nearer to the float network.
    """

    model: onnx.ModelProto
    decision: Decision
    ranges: tuple[Range, ...]
    adjusted: Adjusted = field(default_factory=Adjusted)


def wanted_values(
    prepared: Prepared, options: QuantizeOptions, excluded: Sequence[str] = ()
) -> tuple[str, ...]:
    """The values that quantization asks the ranges of, in the order of the graph.

    Args:
        prepared: the float graph.
        options: of quantization.
        excluded: names of nodes that stay float (see `excluded_nodes`).
    """
    return wanted_of(prepared.model.graph, _decision(prepared, options, excluded).wanted)


def _decision(
    prepared: Prepared,
    options: QuantizeOptions,
    excluded: Sequence[str],
    unknown: Collection[str] = (),
) -> Decision:
    wiring = Wiring.of(prepared.model, prepared.folder)
    return decide(wiring, _placement(options), _floats(prepared), excluded, unknown)


def _floats(prepared: Prepared) -> set[str]:
    """Values that are real numbers: all that are not known to be something else."""
    graph = prepared.model.graph
    values = {value.name for value in graph.input} | {n for node in graph.node for n in node.output}
    typed = (*graph.value_info, *graph.input, *graph.output)
    return values - {one.name for one in typed if one.type.tensor_type.elem_type > 1} - {""}


def ranges_of(
    prepared: Prepared,
    options: QuantizeOptions,
    calibration: CalibrationOptions,
    batches: Iterable[Mapping[str, Array]],
    *,
    excluded: Sequence[str] = (),
    threads: int = 0,
    progress: Progress,
    more: Collection[str] = (),
    observers: Callable[[], Observer] | None = None,
) -> dict[str, Range]:
    """Calibrate: the range of every value that gets a quantizer.

    Args:
        prepared: the float graph.
        options: of quantization.
        calibration: how ranges are chosen.
        batches: inputs by name, read once.
        excluded: names of nodes that stay float.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.
        more: names of further values that are observed.
        observers: makes those of whoever wants to see more than one range; `None` for the usual.

    Raises:
        BadInputError: there is no batch, or a value is no number; or `calibration.memory` is not
            enough.
        EnvironmentFailedError: the machine's memory is not enough, or its disk.
    """
    symmetric = placement_named(options.target).symmetric
    wanted = {*wanted_values(prepared, options, excluded), *more}
    return calibrate(
        prepared,
        wanted_of(prepared.model.graph, wanted),
        batches,
        observers or (lambda: observer(calibration, symmetric=symmetric)),
        memory=Memory(calibration.memory_bytes),
        threads=threads,
        progress=progress,
    )


def rescaled(
    prepared: Prepared,
    options: QuantizeOptions,
    batches: Callable[[], Iterable[Mapping[str, Array]]],
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> Rescaled:
    """What the target, `equalise` and `smooth` ask for, before calibration: the same function.

    Args:
        prepared: the float graph; not changed.
        options: of quantization.
        batches: inputs by name, from the start each time.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told after every batch.

    Raises:
        BadInputError: there is no batch, or a value is no number.
    """
    prepared = _suited(prepared, options)
    found = Rescaled(prepared)
    if options.equalise:
        found = equalise(prepared, batches(), threads=threads, progress=progress)
    if options.smooth != SMOOTH_OFF:
        smoothed = smooth(
            found.prepared,
            _placement(options),
            options.alpha,
            batches(),
            threads=threads,
            progress=progress,
        )
        found = replace(found, prepared=smoothed.prepared, smoothed=smoothed.smoothed)
    return found


def _suited(prepared: Prepared, options: QuantizeOptions) -> Prepared:
    """With what the target has faster kernels for in place of what it has none for."""
    graph = Graph(prepared.model, prepared.folder)
    placement = _placement(options)
    made = as_depthwise(graph, placement.depthwise)
    if "HardSigmoid" in placement.rules:
        made += fuse_hard(graph)
    return replace(prepared, model=graph.whole()) if made else prepared


def quantize(
    prepared: Prepared,
    options: QuantizeOptions,
    ranges: Mapping[str, Range],
    excluded: Sequence[str] = (),
    batches: Iterable[Mapping[str, Array]] | None = None,
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> Quantized:
    """Place quantizers, round weights, correct biases.

    Args:
        prepared: the float graph, as `rescaled` gave it; not changed.
        options: of quantization.
        ranges: by the name of the value.
        excluded: names of nodes that stay float.
        batches: inputs by name, read once; without them nothing is rounded anew or corrected.
        threads: of ONNX Runtime; 0 for one a core.
        progress: told at every layer that is adjusted.

    Raises:
        BadInputError: nothing can be quantized; the message says why.
    """
    decision = _decision(prepared, options, excluded)
    # Ranges from elsewhere may lack some: what needs those is given back, which may need others.
    unknown: set[str] = set()
    while lacking := decision.wanted - ranges.keys() - unknown:
        unknown |= lacking
        decision = _decision(prepared, options, excluded, unknown)
    if not decision.nodes:
        why = f": {decision.left[0].node}: {decision.left[0].why}" if decision.left else ""
        raise BadInputError(f"no node can be quantized for {options.target}{why}")
    model = emit(prepared.model, _placement(options), decision, ranges, prepared.folder)
    used = tuple(one for name, one in ranges.items() if name in decision.wanted)
    adjusted = Adjusted()
    if batches is not None and (options.bias_correction or options.rounding != "nearest"):
        adjusted = adjust(
            prepared,
            model,
            _placement(options),
            batches,
            rounding=options.rounding != "nearest",
            correction=options.bias_correction,
            batch_bytes=alive_bytes(prepared.model.graph, _sizes(prepared, options.at_once)),
            threads=threads,
            progress=progress,
        )
    return Quantized(model, decision, used, adjusted)


def _placement(options: QuantizeOptions) -> Placement:
    """The table of the target, with what the options say of weights."""
    return replace(
        placement_named(options.target),
        weight_bits=int(resolved(options).weight_bits),
        per_channel=options.per_channel,
        weight_range=options.weight_range,
    )


def excluded_nodes(graph: onnx.GraphProto, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the nodes that patterns of names, or names of operators, mean.

    Raises:
        BadInputError: a pattern that means nothing, with the nearest name.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        meant = [n.name for n in graph.node if pattern == n.op_type or fnmatchcase(n.name, pattern)]
        if not meant:
            names = [node.name for node in graph.node] + [node.op_type for node in graph.node]
            raise BadInputError(
                f"exclude {pattern!r} is no node and no operator of this graph"
                f"{nearest(pattern, names)}"
            )
        found.update(dict.fromkeys(meant))
    return tuple(found)


def _sizes(prepared: Prepared, at_once: int) -> dict[str, int]:
    """Bytes of every value for one batch; a size that is not known is taken for the batch."""
    graph = prepared.model.graph
    return {
        value.name: _FLOAT_BYTES
        * prod(d.dim_value or at_once for d in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
