"""Any float ONNX network -> a graph that quantizers can be placed in.

Opset 13 or higher (scales by channel need it), weights as initializers, nothing left between a
layer and its norm, a name for every node, and the shapes that can be known. What goes in is not
changed, and what comes out computes the same; names of inputs and outputs stay.

ONNX Runtime's own optimiser at its basic level does part of this, and is not used: which of its
rewrites are in it changes with its version, it refuses networks with operators it has no kernel
for, it does not raise opsets, and it needs all weights in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.quantize.graph.values import Graph, names_once
from deploykit.quantize.prepare.fold_constants import (
    drop_dead,
    drop_identities,
    fold_constants,
    lift_constants,
)
from deploykit.quantize.prepare.fold_norms import fold_norms, norms_left
from deploykit.quantize.prepare.fuse_biases import fuse_biases
from deploykit.quantize.prepare.fuse_pads import fuse_pads
from deploykit.quantize.prepare.opset import opset_of, raise_opset
from deploykit.quantize.prepare.pool_means import pool_means
from deploykit.quantize.prepare.refusals import refuse_other_types, refuse_quantized

if TYPE_CHECKING:
    from pathlib import Path

    import onnx


@dataclass(frozen=True, slots=True)
class Prepared:
    """A graph that is ready for quantizers, and what was done to make it so.

    Attributes:
        model: the graph; treat it as frozen. Its external tensors point into `folder`, and it may
            be over the 2 GB that protobuf can serialise: `write_graph` writes any.
        folder: where its external data lies, or `None` where it has none.
        opset_before: of the file that came in.
        opset: of `model`.
        folded: outputs of the batch norms that went into the layer before them.
        norms_left: outputs of batch norms that stay, each with why.
        biases_apart: outputs of a MatMul and of the Add of its bias that stay two nodes.
        pooled: outputs of means that are global average pools now.
    """

    model: onnx.ModelProto
    folder: Path | None
    opset_before: int
    opset: int
    folded: tuple[str, ...]
    norms_left: tuple[tuple[str, str], ...]
    biases_apart: tuple[tuple[str, str], ...]
    pooled: tuple[str, ...]


def prepare(model: onnx.ModelProto, folder: Path | None = None) -> Prepared:
    """Make a float graph ready for quantizers.

    Args:
        model: of opset 7 or higher; read without its external data, so that only tensors that
            change are ever read (`deploykit.load.artifacts.read_graph`). Not changed.
        folder: of the model file: external data is looked for there.

    Raises:
        BadInputError: it is quantized already, or computes in float16, or has nothing to quantize;
            its opset is unknown or cannot be raised; or its external data cannot be read.
    """
    before = opset_of(model)
    refuse_quantized(model)
    graph = Graph(_inlined(model), folder)
    lift_constants(graph)
    opset = raise_opset(graph)
    lift_constants(graph)
    drop_identities(graph)
    fold_constants(graph)
    drop_identities(graph)
    refuse_other_types(graph)
    _declare(graph)
    fuse_pads(graph)
    biases = fuse_biases(graph)
    folded = fold_norms(graph)
    pooled = pool_means(graph)
    drop_dead(graph)
    names_once(graph.nodes)
    _declare(graph)
    return Prepared(
        model=graph.whole(),
        folder=folder,
        opset_before=before,
        opset=opset,
        folded=folded,
        norms_left=norms_left(graph),
        biases_apart=biases,
        pooled=pooled,
    )


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions in place of their calls: weights in them count, too."""
    from onnx import inliner

    if not model.functions:
        return model
    # Without the weights: the inliner serialises what it is given.
    apart = Graph(model, None)
    frame = apart.frame
    frame.graph.node.extend(apart.nodes)
    inlined = inliner.inline_local_functions(frame)
    inlined.graph.initializer.extend(apart.constants.values())
    return inlined


def _declare(graph: Graph) -> None:
    """Write down types and shapes of all values that onnx can infer. Changes `graph`."""
    from onnx import shape_inference

    made = {name for node in graph.nodes for name in node.output}
    values = graph.frame.graph.value_info
    known = {value.name: value for value in values if value.name in made}
    del values[:]
    values.extend(known.values())
    try:
        inferred = shape_inference.infer_shapes(graph.with_stand_ins(), data_prop=True)
    except shape_inference.InferenceError:  # a node contradicts its schema: the rest stays unknown
        return
    del values[:]
    values.extend(value for value in inferred.graph.value_info if value.name in made)
    for place, value in enumerate(inferred.graph.output):
        declared = graph.frame.graph.output[place]
        if not declared.type.tensor_type.HasField("shape"):
            declared.CopyFrom(value)
