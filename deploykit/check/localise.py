"""Which tensor diverges first: every value that program and graph both name, side by side.

PyTorch's exporter calls a value of the graph after the node of the program that it came from.
Both are run on the same inputs with all of these values as outputs, and compared in the order in
which they are computed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.check.parity import first_divergence
from deploykit.core.measurement import Target
from deploykit.load.artifacts import load_artifact
from deploykit.load.calls import to_array, to_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch.export import ExportedProgram

    from deploykit.core.types import OnnxArtifact
    from deploykit.load.data import Array
    from deploykit.runtimes.base import Runtime


def localise(
    program: ExportedProgram,
    artifact: OnnxArtifact,
    runtime: Runtime,
    feeds: Mapping[str, Array],
    limit: float | None = None,
) -> str:
    """Say where program and artifact part, in the words of an error message.

    Args:
        program: the decomposed program that the graph was translated from.
        artifact: its ONNX graph; a copy with more outputs is made for the run.
        runtime: what the artifact runs on.
        feeds: inputs by name.
        limit: on the difference; see `deploykit.check.parity.compare`.
    """
    reference = program_values(program, feeds, artifact)
    found = graph_values(artifact, runtime, feeds, set(reference))
    diverged = first_divergence(reference, reference, found, limit)
    if diverged is None:
        return (
            f"none of {len(found)} tensors inside diverges by itself: a fusion of the runtime, or "
            "rounding that adds up"
        )
    name, gap = diverged
    return f"the first tensor that diverges is {name!r}{_scope_text(artifact, name)}, by {gap:.3g}"


def program_values(
    program: ExportedProgram, feeds: Mapping[str, Array], artifact: OnnxArtifact
) -> dict[str, Array]:
    """Every tensor that the program computes, by its name in the graph, in order.

    Args:
        program: run on the CPU as it is.
        feeds: inputs by name.
        artifact: whose input order the program's inputs have.
    """
    import torch

    values: dict[str, Array] = {}
    # Inputs and outputs of the graph have names that users chose; a node may be called the same.
    names = dict(zip(_output_nodes(program), (o.name for o in artifact.outputs), strict=False))
    public = {spec.name for spec in (*artifact.inputs, *artifact.outputs)}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result: object = super().run_node(n)
            name = names.get(n.name, "" if n.name in public else n.name)
            if isinstance(result, torch.Tensor) and n.op == "call_function" and name:
                values[name] = to_array(result).copy()
            return result

    users = iter([to_tensor(feeds[spec.name]) for spec in artifact.inputs])
    with torch.no_grad():
        Recorder(program.graph_module).run(*_lifted(program, users))
    return values


def graph_values(
    artifact: OnnxArtifact, runtime: Runtime, feeds: Mapping[str, Array], names: set[str]
) -> dict[str, Array]:
    """The values of the graph that `names` has, from one run of it on `runtime`."""
    import onnx

    model = onnx.load(artifact.model_path)
    outputs = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name in names]
    for name in made:
        if name not in outputs:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    inferred = {value.name: value for value in model.graph.value_info}
    for value in model.graph.output:
        if value.name in inferred:
            value.CopyFrom(inferred[value.name])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.onnx"
        onnx.save(model, path, save_as_external_data=True, location="values.data")
        session = runtime.open(load_artifact(path), Target(runtime=runtime.name))
        try:
            arrays = session.bind(feeds)()
            names_out = [spec.name for spec in session.outputs]
        finally:
            session.close()
    return dict(zip(names_out, arrays, strict=True))


def _output_nodes(program: ExportedProgram) -> list[str]:
    return [name for name in program.graph_signature.user_outputs if isinstance(name, str)]


def _lifted(program: ExportedProgram, users: Iterator[torch.Tensor]) -> Iterator[object]:
    """What the flat graph takes: parameters, buffers and constants, and the users' inputs."""
    from torch.export.graph_signature import ConstantArgument, InputKind

    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            constant = isinstance(spec.arg, ConstantArgument)
            yield spec.arg.value if constant else next(users)
        elif spec.target in program.state_dict:
            yield program.state_dict[spec.target]
        else:
            yield program.constants[str(spec.target)]


def _scope_text(artifact: OnnxArtifact, name: str) -> str:
    from deploykit.load.artifacts import read_graph

    for node in read_graph(artifact.model_path).graph.node:
        if name in node.output:
            scope = next((entry.value for entry in node.metadata_props), "")
            return f" ({node.op_type}{f' of {scope}' if scope else ''})"
    return ""
