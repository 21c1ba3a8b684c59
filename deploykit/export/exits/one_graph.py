"""All stages in one graph: each is the branch of an `If` that runs while samples are left.

    logits, leave = stage 1, rule
    result = If(any stays):  Compress what goes on; stage 2 ...; ScatterND into logits
             else:           logits

For runtimes that can run `If`, `Compress` and `ScatterND`. TensorRT, and all that want static
shapes, take the stages.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit.core.errors import BadInputError
from deploykit.export.exits.cut import names_read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploykit.export.exits.stages import StageModel
    from deploykit.runtimes.dynamic.record import StageRecord, Stages

_LOGITS, _EXIT = "output", "exit"
_OLDEST_OPSET = 18


def one_graph(models: Sequence[StageModel], record: Stages) -> onnx.ModelProto:
    """One model that gives "output", [N, classes], and "exit", [N]: the number of each exit.

    Args:
        models: the stages.
        record: of them; its thresholds are written into the graph.

    Raises:
        BadInputError: the opset is older than 18.
    """
    first = models[0].model
    version = next(one.version for one in first.opset_import if not one.domain)
    if version < _OLDEST_OPSET:
        raise BadInputError(f"one graph with exits needs opset {_OLDEST_OPSET}, not {version}")
    builder = _Builder(models, record)
    graph = builder.whole()
    return helper.make_model(
        graph, opset_imports=first.opset_import, functions=first.functions,
        ir_version=first.ir_version,
    )  # fmt: skip


class _Graph:
    """Nodes and constants of one body under way."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix
        self._numbers = count()

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """A node with one output, whose name it returns."""
        name = f"{self._prefix}_{kind.lower()}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))  # type: ignore[arg-type]
        return name

    def constant(self, value: object, dtype: type[np.generic] = np.int64) -> str:
        """A constant, whose name it returns."""
        name = f"{self._prefix}_constant_{next(self._numbers)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name


class _Builder:
    def __init__(self, models: Sequence[StageModel], record: Stages) -> None:
        self._models = models
        self._record = record
        self._rule = record.rule
        output = next(x for x in models[0].model.graph.output if x.name == models[0].exit)
        self._kind = output.type.tensor_type.elem_type
        self._axes: dict[str, int | None] = {}
        for model in models:
            self._axes |= dict(model.axes)
        self._made: set[str] = set()

    def whole(self) -> onnx.GraphProto:
        graph = _Graph("exits0")
        logits, exits = self._stage(graph, 0, {}, [])
        graph.nodes += [
            helper.make_node("Identity", [logits], [f"{_LOGITS}"]),
            helper.make_node("Identity", [exits], [_EXIT]),
        ]
        first = self._models[0].model.graph
        values = {x.name: x for one in self._models for x in one.model.graph.input}
        taken = {name for one in self._models for name in one.takes}
        given = {name for one in self._models for name in one.gives}
        inputs = [values[name] for name in values if name in taken - given]
        end = self._models[-1]
        last = next(x for x in end.model.graph.output if x.name == end.exit)
        shape = last.type.tensor_type.shape
        outputs = [
            helper.make_tensor_value_info(_LOGITS, self._kind, [_dim(x) for x in shape.dim]),
            helper.make_tensor_value_info(_EXIT, TensorProto.INT64, [_dim(shape.dim[0])]),
        ]
        return helper.make_graph(graph.nodes, first.name, inputs, outputs, graph.constants)

    def _stage(
        self, graph: _Graph, number: int, names: Mapping[str, str], said: Sequence[str]
    ) -> tuple[str, str]:
        """Put a stage and all after it into a body; names of its logits and exits.

        Args:
            graph: the body.
            number: of the stage.
            names: what it takes is called here, where it is called otherwise.
            said: the class of every exit so far, for patience.
        """
        model, row = self._models[number], self._record.stages[number]
        renamed = {**names, model.exit: f"{model.exit}_at_{number}"}
        renamed = self._copied(graph, model.model.graph, renamed, number)
        logits = renamed[model.exit]
        mine = graph.add("Shape", logits, start=0, end=1)
        exits = graph.add("Expand", graph.constant([number]), mine)
        if number == len(self._models) - 1:
            return logits, exits
        if row.threshold is None:
            raise BadInputError(f"nobody leaves at {row.exit}: leave it out of one graph")
        classes = graph.add("ArgMax", logits, axis=1, keepdims=0)
        stay = graph.add("Not", self._leaves(graph, row, logits, [*said, classes]))
        some = graph.add("ReduceMax", graph.add("Cast", stay, to=TensorProto.INT32), keepdims=0)
        on, off = _Graph(f"exits{number + 1}"), _Graph(f"exits{number + 1}else")
        self._rest(on, number, renamed, (logits, exits, stay), [*said, classes])
        off.nodes += [
            helper.make_node("Identity", [name], [f"{kind}_else_{number}"])
            for name, kind in ((logits, "logits"), (exits, "exits"))
        ]
        found = [f"logits_from_{number}", f"exits_from_{number}"]
        some = graph.add("Cast", some, to=TensorProto.BOOL)
        then, otherwise = self._branch(on, "then", number), self._branch(off, "else", number)
        graph.nodes.append(
            helper.make_node("If", [some], found, then_branch=then, else_branch=otherwise)
        )
        return found[0], found[1]

    def _branch(self, body: _Graph, which: str, number: int) -> onnx.GraphProto:
        outputs = [
            helper.make_tensor_value_info(f"logits_{which}_{number}", self._kind, None),
            helper.make_tensor_value_info(f"exits_{which}_{number}", TensorProto.INT64, None),
        ]
        return helper.make_graph(body.nodes, f"{which}_{number}", [], outputs, body.constants)

    def _copied(
        self, graph: _Graph, source: onnx.GraphProto, names: Mapping[str, str], number: int
    ) -> dict[str, str]:
        """Put the nodes and weights of a stage into a body; what its values are called there.

        What an outer body has already is used from there, or, where it is another value (sizes
        computed again of fewer samples), gets a name of its own: a body may hide no outer name.
        """
        renamed = dict(names)
        for node in source.node:
            for name in node.output:
                if name in self._made and name not in renamed:
                    renamed[name] = f"{name}_at_{number}"
        for node in source.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for place, name in enumerate(copy.input):
                copy.input[place] = renamed.get(name, name)
            for place, name in enumerate(copy.output):
                copy.output[place] = renamed.get(name, name)
            graph.nodes.append(copy)
            self._made.update(node.output)
        read = {name for node in source.node for name in names_read(node)}
        for weight in source.initializer:
            if weight.name in read and weight.name not in self._made:
                graph.constants.append(weight)
                self._made.add(weight.name)
        return renamed

    def _rest(
        self,
        body: _Graph,
        number: int,
        names: Mapping[str, str],
        here: tuple[str, str, str],
        said: Sequence[str],
    ) -> None:
        """The branch in which somebody stays: fewer samples, the next stage, and all put back."""
        logits, exits, stay = here
        later = {name for one in self._models[number + 1 :] for name in one.takes}
        made = {name for one in self._models[number + 1 :] for name in one.gives}
        passed = dict(names)
        for name in sorted(later - made):
            axis = self._axes[name]
            if axis is not None:
                passed[name] = body.add("Compress", names.get(name, name), stay, axis=axis)
        thinned = []
        if self._rule == "patience":
            thinned = [body.add("Compress", one, stay, axis=0) for one in said]
        found = self._stage(body, number + 1, passed, thinned)
        places = body.add("Transpose", body.add("NonZero", stay), perm=[1, 0])
        for before, after, kind in ((logits, found[0], "logits"), (exits, found[1], "exits")):
            body.nodes.append(
                helper.make_node("ScatterND", [before, places, after], [f"{kind}_then_{number}"])
            )

    def _leaves(self, graph: _Graph, row: StageRecord, logits: str, said: Sequence[str]) -> str:
        """Name of [N] booleans: who leaves. Compared in float64, as the stages' controller does."""
        if self._rule == "patience":
            return self._agreeing(graph, row, said)
        scaled = logits
        if row.temperature != 1:
            kind = helper.tensor_dtype_to_np_dtype(self._kind).type
            scaled = graph.add("Div", logits, graph.constant(row.temperature, kind))
        shares = graph.add("Softmax", scaled, axis=1)
        if self._rule == "entropy":
            low = graph.constant(np.finfo(np.float32).tiny, np.float32)
            shares = graph.add("Cast", shares, to=TensorProto.FLOAT)
            nats = graph.add("Mul", shares, graph.add("Log", graph.add("Max", shares, low)))
            total = graph.add("ReduceSum", nats, graph.constant([1]), keepdims=0)
            size = graph.add("Shape", logits, start=1, end=2)
            size = graph.add("Cast", size, to=TensorProto.FLOAT)
            found = graph.add("Div", graph.add("Neg", total), graph.add("Log", size))
            compare = "LessOrEqual"
        elif self._rule == "margin":
            values = f"top_{row.exit}"
            graph.nodes.append(
                helper.make_node("TopK", [shares, graph.constant([2])], [values, f"{values}_at"])
            )
            first, second = (graph.add("Gather", values, graph.constant(k), axis=1) for k in (0, 1))
            found, compare = graph.add("Sub", first, second), "GreaterOrEqual"
        else:
            found = graph.add("ReduceMax", shares, graph.constant([1]), keepdims=0)
            compare = "GreaterOrEqual"
        wide = graph.add("Cast", found, to=TensorProto.DOUBLE)
        return graph.add(compare, wide, graph.constant(row.threshold, np.float64))

    def _agreeing(self, graph: _Graph, row: StageRecord, said: Sequence[str]) -> str:
        """As `deploykit.runtimes.dynamic.rules.agreeing` counts."""
        newest = said[-1]
        still = graph.add("Equal", newest, newest)
        total = graph.add("Cast", still, to=TensorProto.INT64)
        for earlier in reversed(said[:-1]):
            still = graph.add("And", still, graph.add("Equal", earlier, newest))
            total = graph.add("Add", total, graph.add("Cast", still, to=TensorProto.INT64))
        assert row.threshold is not None  # checked by the caller
        return graph.add("GreaterOrEqual", total, graph.constant(int(row.threshold)))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return dim.dim_value or dim.dim_param or "N"
