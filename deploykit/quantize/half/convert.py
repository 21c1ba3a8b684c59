"""A prepared float32 graph to 16 bits, in a row: decide, write, and what to prove it by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.quantize.graph.values import Graph, names_once
from deploykit.quantize.half.decide import decide
from deploykit.quantize.half.emit import emit
from deploykit.quantize.half.formats import BF16, FORMATS
from deploykit.quantize.half.known import Known
from deploykit.quantize.half.opset import raise_to_bf16
from deploykit.quantize.half.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx

    from deploykit.quantize.half.decide import Decision
    from deploykit.quantize.half_options import HalfOptions
    from deploykit.quantize.prepare.prepare import Prepared
    from deploykit.quantize.ranges import Range


@dataclass(frozen=True, slots=True, eq=False)
class Halved:
    """A graph of 16 bits.

    Attributes:
        model: it.
        simulated: the float32 graph that rounds where `model` does: see `simulate`.
        decision: which nodes stay float32, and why.
    """

    model: onnx.ModelProto
    simulated: onnx.ModelProto
    decision: Decision


def known_of(
    prepared: Prepared, options: HalfOptions, ranges: Mapping[str, Range] | None = None
) -> Known:
    """What is known of a prepared graph; it has a copy of its own.

    Raises:
        BadInputError: a custom operator makes something that nobody declared the type of.
    """
    graph = Graph(prepared.model, prepared.folder)
    if options.precision == BF16.name:
        raise_to_bf16(graph)
    known = Known.of(graph, FORMATS[options.precision], options.target, ranges or {})
    for node in graph.nodes:
        for name in node.output:
            if node.domain != "" and name and name not in known.types:
                raise BadInputError(
                    f"node {node.name!r} is the custom operator {node.domain}:{node.op_type}, and "
                    f"nobody says of which type its output {name!r} is: add it to the file's "
                    "value_info (onnx.helper.make_tensor_value_info)"
                )
    return known


def halve(
    prepared: Prepared,
    options: HalfOptions,
    ranges: Mapping[str, Range],
    excluded: Collection[str] = (),
) -> Halved:
    """Convert.

    Args:
        prepared: the float32 graph; not changed.
        options: of half precision.
        ranges: of activations, by name, as far as seen.
        excluded: names of nodes that stay float32.

    Raises:
        BadInputError: nothing can be of 16 bits; the message says why.
    """
    known = known_of(prepared, options, ranges)
    decision = decide(known, excluded)
    there = {name for name, ports in decision.ports.items() if ports.there}
    if there <= decision.kept.keys():
        first = next(iter(decision.kept.items()), ("", "it has no float32"))
        raise BadInputError(
            f"no node of this network can be of {known.form.word}: {first[0]}: {first[1]}"
        )
    rounded = known_of(prepared, options, ranges)
    simulate(rounded, decision)
    emit(known, decision, half_io=options.half_io)
    names_once(known.graph.nodes)
    return Halved(known.graph.whole(), rounded.graph.whole(), decision)


def kept_reasons(halved: Halved, graph: onnx.GraphProto) -> tuple[tuple[str, str, str], ...]:
    """Nodes that touch float32: name, operator, and why it stays so or "", in the graph's order."""
    ports, kept = halved.decision.ports, halved.decision.kept
    return tuple(
        (node.name, node.op_type, kept.get(node.name, ""))
        for node in graph.node
        if ports[node.name].there
    )
