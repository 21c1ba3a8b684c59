"""What ONNX Runtime makes of a quantized graph: what it still computes in float, and in vain.

Its optimiser replaces DequantizeLinear, a node and QuantizeLinear by one integer kernel. Where it
does not, the node runs in float between two conversions, which is slower than float alone. What
has to be there is told from what is there in vain:

::

    float ─► QuantizeLinear ─► integer kernel ─► DequantizeLinear ─► float      needed
    float ─► QuantizeLinear ─► DequantizeLinear ─► float                        rounds in vain
    weights ─► DequantizeLinear ─► float kernel                                 computes in float
    integer kernel ─► DequantizeLinear ─► QuantizeLinear ─► integer kernel      changes the scale
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.runtimes.ort import CPU_PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

    from deploykit.core.types import OnnxArtifact

_TO_FLOAT, _TO_INTEGERS = "DequantizeLinear", "QuantizeLinear"
_CONVERSIONS = frozenset({_TO_FLOAT, _TO_INTEGERS})


@dataclass(frozen=True, slots=True)
class Leftover:
    """A node that quantization left in the graph in vain.

    Attributes:
        node: its name in the graph that runs.
        op: its operator.
        why: no integer kernel took it.
        blames: nodes that run in float and are the reason.
    """

    node: str
    op: str
    why: str
    blames: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leftovers:
    """All of one graph.

    Attributes:
        floats: nodes that run in float although all that they read, and what they give, is
            quantized.
        orphans: QuantizeLinear and DequantizeLinear that no integer kernel took.
    """

    floats: tuple[Leftover, ...] = ()
    orphans: tuple[Leftover, ...] = ()


def leftovers(artifact: OnnxArtifact) -> Leftovers:
    """What is there in vain in the graph that ONNX Runtime's CPU provider runs.

    Args:
        artifact: with QuantizeLinear and DequantizeLinear.
    """
    look = _Look.at(_optimised(artifact))
    return Leftovers(tuple(look.floats()), tuple(look.orphans()))


def left_in_float(artifact: OnnxArtifact) -> tuple[str, ...]:
    """Nodes that run in float although all that they read, and what they give, is quantized.

    Args:
        artifact: with QuantizeLinear and DequantizeLinear.

    Returns:
        "OPERATOR NAME" of each in the graph that ONNX Runtime's CPU provider runs.
    """
    return tuple(f"{one.op} {one.node}" for one in leftovers(artifact).floats)


def _optimised(artifact: OnnxArtifact) -> onnx.GraphProto:
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(artifact.model_path, options, providers=[CPU_PROVIDER])
        return onnx.load(path, load_external_data=False).graph


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """A graph, looked up by names."""

    graph: onnx.GraphProto
    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, list[onnx.NodeProto]]
    constants: frozenset[str]

    @classmethod
    def at(cls, graph: onnx.GraphProto) -> _Look:
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return cls(
            graph,
            {name: node for node in graph.node for name in node.output},
            readers,
            frozenset(tensor.name for tensor in graph.initializer),
        )

    def floats(self) -> Iterator[Leftover]:
        """Nodes between a dequantizer and a quantizer."""
        for node in self.graph.node:
            if node.op_type in _CONVERSIONS:
                continue
            read = [name for name in node.input if name and name not in self.constants]
            goes = [op for name in node.output for op in self._ops_after(name)]
            comes = bool(read) and all(self._op_before(name) == _TO_FLOAT for name in read)
            if comes and goes and all(op == _TO_INTEGERS for op in goes):
                why = "ONNX Runtime has no integer kernel for it as it stands"
                yield Leftover(node.name, node.op_type, why, (node.name,))

    def orphans(self) -> Iterator[Leftover]:
        """Conversions that no integer kernel took, and that no float node needs."""
        for node in self.graph.node:
            found = None
            if node.op_type == _TO_INTEGERS:
                found = self._quantizer(node)
            elif node.op_type == _TO_FLOAT and node.input[0] in self.constants:
                found = self._constant(node)
            if found is not None:
                yield found

    def _quantizer(self, node: onnx.NodeProto) -> Leftover | None:
        """One whose integers nobody computes with, or that only changes a scale."""
        after = self.readers.get(node.output[0], [])
        if after and all(one.op_type == _TO_FLOAT for one in after):
            floats = [one for each in after for one in self.readers.get(each.output[0], [])]
            why = f"rounds what {_said(floats)} in float: no integer kernel reads it"
            return Leftover(node.name, node.op_type, why, _names(floats))
        before = self.makers.get(node.input[0])
        if before is not None and before.op_type == _TO_FLOAT:
            why = f"changes the scale of {node.input[0]} for what {_said(after)}"
            return Leftover(node.name, node.op_type, why)
        return None

    def _constant(self, node: onnx.NodeProto) -> Leftover:
        """Of weights: whoever reads them computes in float."""
        after = self.readers.get(node.output[0], [])
        why = f"makes floats of weights that {_said(after)} in float, in each call"
        return Leftover(node.name, node.op_type, why, _names(after))

    def _op_before(self, name: str) -> str:
        maker = self.makers.get(name)
        return "" if maker is None else maker.op_type

    def _ops_after(self, name: str) -> list[str]:
        return [node.op_type for node in self.readers.get(name, [])]


def _said(nodes: list[onnx.NodeProto]) -> str:
    """Who reads something."""
    names = [f"{node.op_type} {node.name}" for node in nodes]
    return f"{' and '.join(names) or 'the caller'} read{'s' * (len(names) < 2)}"


def _names(nodes: list[onnx.NodeProto]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.name for node in nodes if node.op_type not in _CONVERSIONS))
