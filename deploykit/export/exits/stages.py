"""A model for each stage: static graphs, which any runtime runs one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploykit.core.errors import BadInputError
from deploykit.export.exits.cut import names_read, stages_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.core.types import TensorSpec
    from deploykit.export.exits.crossing import Crossing, Run


@dataclass(frozen=True, slots=True, eq=False)
class StageModel:
    """One stage, ready to be written.

    Attributes:
        model: with its own weights alone. Its inputs are `takes`, its outputs the exit's logits
            and `gives`.
        exit: name of the logits.
        takes: names of inputs of the network, and of what earlier stages gave.
        gives: names of what later stages take.
        axes: of all that it takes and gives: where the samples lie, `None` where it is the same
            for all.
    """

    model: onnx.ModelProto
    exit: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    axes: Mapping[str, int | None]


def stage_models(
    model: onnx.ModelProto, exits: Sequence[str], specs: Sequence[TensorSpec], run: Run
) -> tuple[StageModel, ...]:
    """Cut a model into its stages.

    Args:
        model: with its weights; not changed.
        exits: names of outputs in the order of computation; the last is the network's own end.
        specs: its inputs, with ranges.
        run: a model on inputs -> its outputs, by name.

    Raises:
        BadInputError: an exit that is no output; or something passes between two stages that some
            samples cannot be taken out of.
    """
    from deploykit.export.exits.crossing import crossings

    stages = stages_of(model.graph, exits)
    names = [name for stage in stages for name in stage.gives]
    found = crossings(model, names, specs, run)
    axes: dict[str, int | None] = {spec.name: 0 if spec.shape else None for spec in specs}
    axes |= {name: one.axis for name, one in found.items()}
    made = []
    for stage in stages:
        again = [found[x] for x in stage.takes if x in found and found[x].slope]
        takes = [name for name in stage.takes if name not in {one.name for one in again}]
        counted = _counted(takes, axes, stage.exit) if again else ""
        if counted and counted not in takes:
            takes.append(counted)
        gives = tuple(name for name in stage.gives if not found[name].slope)
        graph = _graph(model.graph, stage.nodes, takes, (stage.exit, *gives), found)
        _compute_again(graph, again, counted, axes)
        whole = helper.make_model(
            graph, opset_imports=model.opset_import, functions=model.functions,
            ir_version=model.ir_version,
        )  # fmt: skip
        mine = {name: axes[name] for name in (*takes, *gives)}
        made.append(StageModel(whole, stage.exit, tuple(takes), gives, mine))
    return tuple(made)


def _counted(takes: Sequence[str], axes: Mapping[str, int | None], exit_: str) -> str:
    """What the samples of a stage are counted by."""
    for name in takes:
        if axes[name] is not None:
            return name
    raise BadInputError(f"the stage of {exit_} takes nothing that has samples to count")


def _graph(
    graph: onnx.GraphProto,
    nodes: Sequence[int],
    takes: Sequence[str],
    gives: Sequence[str],
    found: Mapping[str, Crossing],
) -> onnx.GraphProto:
    """The nodes of a stage with the weights that they read."""
    own = [graph.node[number] for number in nodes]
    read = {name for node in own for name in names_read(node)}
    values = {x.name: x for x in (*graph.input, *graph.output)}
    return helper.make_graph(
        own,
        graph.name,
        [values.get(name) or _value(found[name]) for name in takes],
        [values.get(name) or _value(found[name]) for name in gives],
        [x for x in graph.initializer if x.name in read],
        value_info=[x for x in graph.value_info if x.name in {o for n in own for o in n.output}],
        sparse_initializer=[x for x in graph.sparse_initializer if x.values.name in read],
    )


def _value(one: Crossing) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(one.dtype))
    return helper.make_tensor_value_info(one.name, kind, list(one.shape))


def _compute_again(
    graph: onnx.GraphProto, again: Sequence[Crossing], counted: str, axes: Mapping[str, int | None]
) -> None:
    """Put nodes in front that compute sizes from the number of samples that is left."""
    nodes, constants = [], []
    for one in again:
        axis = axes[counted]
        assert axis is not None  # it counts the samples
        count, grown = f"{one.name}_samples", f"{one.name}_grown"
        slope, offset = f"{one.name}_slope", f"{one.name}_offset"
        shape = one.shape
        nodes += [
            helper.make_node("Shape", [counted], [count], start=axis, end=axis + 1),
            helper.make_node("Mul", [count, slope], [grown]),
            helper.make_node("Add", [grown, offset], [f"{one.name}_flat"]),
            helper.make_node("Reshape", [f"{one.name}_flat", f"{one.name}_shape"], [one.name]),
        ]
        kept = {slope: one.slope, offset: one.offset, f"{one.name}_shape": shape}
        constants += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in kept.items()]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    graph.initializer.extend(constants)
