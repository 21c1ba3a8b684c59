"""What ONNX Runtime makes of a quantized graph: which products it still computes in float.

Its optimiser replaces DequantizeLinear, a node and QuantizeLinear by one integer kernel. Where it
does not, the node runs in float between two conversions, which is slower than float alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.runtimes.ort import CPU_PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from deploykit.core.types import OnnxArtifact

_TO_FLOAT, _TO_INTEGERS = "DequantizeLinear", "QuantizeLinear"


def left_in_float(artifact: OnnxArtifact) -> tuple[str, ...]:
    """Nodes that run in float although all that they read, and what they give, is quantized.

    Args:
        artifact: with QuantizeLinear and DequantizeLinear.

    Returns:
        "OPERATOR NAME" of each in the graph that ONNX Runtime's CPU provider runs.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(artifact.model_path, options, providers=[CPU_PROVIDER])
        graph = onnx.load(path, load_external_data=False).graph
    return tuple(_left(graph))


def _left(graph: onnx.GraphProto) -> Iterator[str]:
    makers = {name: node.op_type for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for node in graph.node:
        if node.op_type in {_TO_FLOAT, _TO_INTEGERS}:
            continue
        read = [name for name in node.input if name and name not in constants]
        comes = bool(read) and all(makers.get(name) == _TO_FLOAT for name in read)
        goes = [op for name in node.output for op in readers.get(name, ())]
        if comes and goes and all(op == _TO_INTEGERS for op in goes):
            yield f"{node.op_type} {node.name}"
