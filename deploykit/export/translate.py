"""Exported program -> ONNX: translated by PyTorch's exporter, then cleaned.

The exporter writes stack traces with paths of the machine into every node, names dimensions after
its own counters, and says nothing of the module that a node came from in a form that lasts.
`clean` removes the first, mends the second and adds the third, so that the same network gives the
same bytes on every machine.
"""

from __future__ import annotations

import ast
import itertools
import re
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.core.errors import BadInputError
from deploykit.core.types import Dim
from deploykit.export.attention import written_out
from deploykit.load.quiet import quiet_torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnx_ir
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

    from deploykit.core.types import TensorSpec

SCOPE_KEY = "deploykit.scope"
"""Metadata of a node: dotted name of the module that it came from, such as "layer1.0.conv1"."""
_TORCH_SCOPES = "pkg.torch.onnx.name_scopes"


def translate(
    program: ExportedProgram, inputs: Sequence[TensorSpec], outputs: Sequence[str], opset: int
) -> ONNXProgram:
    """Translate and fold; the result still has the exporter's metadata.

    Args:
        program: captured.
        inputs: their names in the graph.
        outputs: their names in the graph.
        opset: version of the ONNX operators.

    Raises:
        BadInputError: an operator has no translation; the message names it.
    """
    import torch

    try:
        # As it was captured: with gradients, attention with a learnt mask takes another kernel,
        # which lays its result out as the views behind it were not captured for.
        with quiet_torch(), torch.no_grad():
            found = torch.onnx.export(
                written_out(program),
                input_names=[spec.name for spec in inputs],
                output_names=list(outputs),
                opset_version=opset,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise BadInputError(_explain(error)) from error
    if found is None:
        raise BadInputError("PyTorch's exporter gave nothing back")
    return found


def clean(model: onnx_ir.Model, program: ExportedProgram, inputs: Sequence[TensorSpec]) -> None:
    """Make the graph say what it is, in place, and nothing of the machine that made it."""
    _make_room(model)
    names = dimension_names(program, inputs)
    model.producer_name, model.producer_version = "deploykit", __version__
    model.doc_string = None
    model.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
        function.doc_string = None
        _clean_nodes(function.all_nodes(), names)
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    _clean_nodes(model.graph.all_nodes(), names)
    for value in model.graph.inputs:
        _clean_value(value, names)
    for value in model.graph.initializers.values():
        _clean_value(value, names)
        if value.const_value is not None:
            value.const_value.metadata_props.clear()
            value.const_value.doc_string = None


def _make_room(model: onnx_ir.Model) -> None:
    """Rename inner values that are called as an input or output is: users choose those names."""
    graph = model.graph
    public = {id(value) for value in (*graph.inputs, *graph.outputs)}
    reserved = {value.name for value in (*graph.inputs, *graph.outputs)}
    inner = [value for node in graph.all_nodes() for value in node.outputs]
    inner.extend(graph.initializers.values())
    taken = reserved | {value.name for value in inner}
    for value in inner:
        if id(value) not in public and value.name in reserved:
            free = (f"{value.name}_{number}" for number in itertools.count(1))
            value.name = next(name for name in free if name not in taken)
            taken.add(value.name)


def dimension_names(program: ExportedProgram, inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """The declared name for each symbol, and expression of symbols, among the input sizes."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names: dict[str, str] = {}
    for name, spec in zip(program.graph_signature.user_inputs, inputs, strict=True):
        sizes = getattr(values.get(str(name)), "shape", ())
        for size, declared in zip(sizes, spec.shape, strict=True):
            if isinstance(declared, Dim) and not isinstance(size, int):
                names.setdefault(str(size), declared.name)
                for symbol in re.findall(r"[A-Za-z_]\w*", str(size)):
                    names.setdefault(symbol, f"({declared.name}/{declared.step})")
    return names


def _clean_nodes(nodes: Iterable[onnx_ir.Node], names: Mapping[str, str]) -> None:
    for node in nodes:
        scope = _scope(node)
        node.metadata_props.clear()
        node.doc_string = None
        if scope:
            node.metadata_props[SCOPE_KEY] = scope
        for value in node.outputs:
            _clean_value(value, names)


def _clean_value(value: onnx_ir.Value, names: Mapping[str, str]) -> None:
    import onnx_ir

    value.metadata_props.clear()
    value.doc_string = None
    if value.shape is not None and any(isinstance(d, onnx_ir.SymbolicDim) for d in value.shape):
        sizes = [
            _renamed(d.value, names) if isinstance(d, onnx_ir.SymbolicDim) else d
            for d in value.shape
        ]
        value.shape = onnx_ir.Shape(sizes)


def _renamed(text: str | None, names: Mapping[str, str]) -> str | None:
    if text is None or text in names:
        return None if text is None else names[text]
    return re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), text)


def _scope(node: onnx_ir.Node) -> str:
    """The module whose weights a node reads, or else the innermost one that it was called in.

    Weights first: where a batch norm was folded into a convolution, the exporter names the norm.
    """
    for value in node.inputs:
        if value is not None and value.is_initializer() and "." in (value.name or ""):
            return str(value.name).rpartition(".")[0]
    try:
        parts = ast.literal_eval(node.metadata_props.get(_TORCH_SCOPES, ""))
    except (SyntaxError, ValueError):
        return ""
    return str(parts[-2]) if isinstance(parts, list) and len(parts) > 1 else ""


def _explain(error: Exception) -> str:
    reasons = list(_chain(error))
    missing = next((found for text in reasons if (found := _missing_operator(text))), None)
    if missing:
        return f"operator {missing} has no ONNX translation: replace it in the network"
    return f"PyTorch's exporter failed: {reasons[-1]}"


def _missing_operator(text: str) -> str | None:
    match = re.search(
        r"No (?:ONNX function|decompositions registered)[^\n]*?([a-z_]\w*(?:::|\.)[\w.]+)", text
    )
    return match[1] if match else None


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        lines = [line.strip() for line in str(error).split("\n") if line.strip()]
        yield f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        error = error.__cause__
