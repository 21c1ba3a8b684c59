"""The float32 graph with every rounding to 16 bits written out: a cast there and back.

ONNX Runtime's CPU has few kernels for float16 and none for bfloat16. It runs float16 in float32
and takes out the casts between two such nodes, so that nothing is rounded and nothing overflows on
the way: a graph that gives infinities on a GPU passes. In this graph every value of 16 bits really
is one, and sums are float32, as tensor cores keep them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.quantize.half.known import FLOAT

if TYPE_CHECKING:
    import onnx

    from deploykit.quantize.half.decide import Decision
    from deploykit.quantize.half.known import Known


def simulate(known: Known, decision: Decision) -> None:
    """Write the roundings of a decision into the graph of `known`, which stays float32."""
    work = _Rounding(known, decision)
    made_half: set[str] = set()
    for node in known.graph.nodes:
        ports = decision.ports[node.name]
        for place in ports.reads:
            name = node.input[place]
            if decision.reads_half(node, place) and name not in made_half:
                node.input[place] = work.read(name)
        work.nodes.append(node)
        for place in ports.makes:
            if decision.makes_half(node, place):
                name = node.output[place]
                made_half.add(name)
                node.output[place] = known.graph.free_name(f"{name}_exact")
                work.round(node.output[place], name)
    known.graph.replace_nodes(work.nodes)


class _Rounding:
    """Adds roundings, each once."""

    def __init__(self, known: Known, decision: Decision) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._known = known
        self._decision = decision
        self._rounded: dict[str, str] = {}

    def read(self, name: str) -> str:
        """The rounded version of a value that is float32."""
        if name not in self._rounded:
            self._rounded[name] = self._constant(name) or self._activation(name)
        return self._rounded[name]

    def _constant(self, name: str) -> str:
        """A rounded copy of a constant; "" for what is none."""
        import numpy as np

        graph, form = self._known.graph, self._known.form
        if name not in graph.constants:
            return ""
        value = form.rounded(graph.array(name)).astype(np.float32)
        return graph.add_constant(f"{name}_rounded", value)

    def _activation(self, name: str) -> str:
        new = self._known.graph.free_name(f"{name}_rounded")
        self.round(name, new)
        return new

    def round(self, name: str, new: str) -> None:
        """Add a cast there and back."""
        from onnx import helper

        middle = self._known.graph.free_name(f"{name}_{self._known.form.name}")
        there, back = (helper.make_attribute("to", t) for t in (self._known.form.onnx_type, FLOAT))
        for inputs, output, to in ((name, middle, there), (middle, new, back)):
            node = helper.make_node("Cast", [inputs], [output], f"{output}_cast")
            node.attribute.append(to)
            self.nodes.append(node)
