"""Fold the scale of attention into the weights of its queries.

`scaled_dot_product_attention` divides by the square root of a head's width, and a narrower head
would be divided by less. The cut graph has the old scale written in; a class that leaves it to the
operator has no attribute for it. The same comes of multiplying what gives the queries: rows of
the projection, or the weight of the norm behind it. (What is folded shows in the class's weights
only: they differ from those of the cut graph by that factor.)
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

from deploykit.compress.prune.analysis.rules.call import argument, packet_name
from deploykit.compress.prune.graph.program import attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from deploykit.compress.prune.graph.program import Program
    from deploykit.core.types import TensorSpec

_CHANNELS = {"linear": -1, "conv2d": 1, "conv1d": 1, "layer_norm": -1, "rms_norm": -1,
             "batch_norm": 1}  # fmt: skip
"""What gives a channel a weight of its own, and which dimension of the result has the channels."""


def folded(program: Program, small: GraphModule, inputs: Sequence[TensorSpec]) -> dict[str, Tensor]:
    """Weights and biases of the cut graph, times what attention's default scale gets wrong.

    Args:
        program: of the original network.
        small: the cut graph; not changed.
        inputs: of the network.

    Returns:
        By qualified name those that differ from the graph's; none where a scale cannot be folded.
    """
    import torch

    asked = _rescaled(program, small)
    if not asked:
        return {}
    values = _shapes(small, inputs)
    factors: dict[str, Tensor] = {}
    for node in asked:
        query = argument(node, "query")
        width = values[query].shape[-1]
        factor = argument(node, "scale") * sqrt(width)
        for name, rows in _sources(query, small, values).items():
            tensor = attribute(small, name)
            known = factors.setdefault(name, torch.ones(tensor.shape[0], dtype=torch.float64))
            known[rows] = factor
    return {name: _times(attribute(small, name), factor) for name, factor in factors.items()}


def _rescaled(program: Program, small: GraphModule) -> list[Node]:
    """Attentions of the cut graph that have a scale where the original had none."""
    plain = {
        node.name
        for node in program.module.graph.nodes
        if packet_name(node) == "scaled_dot_product_attention" and argument(node, "scale") is None
    }
    return [n for n in small.graph.nodes if n.name in plain and argument(n, "scale") is not None]


def _shapes(small: GraphModule, inputs: Sequence[TensorSpec]) -> dict[Node, Any]:
    """A tensor without data for every node."""
    import torch
    from torch import fx

    from deploykit.core.types import Dim
    from deploykit.load.capture import example_sizes

    sizes = example_sizes(inputs)
    shapes = [
        [sizes[size.name] if isinstance(size, Dim) else size for size in spec.shape]
        for spec in inputs
    ]
    feeds = [
        torch.empty(shape, dtype=_type(spec, small), device="meta")
        for shape, spec in zip(shapes, inputs, strict=True)
    ]
    values: dict[Node, Any] = {}

    class Run(fx.Interpreter):
        def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
            found = super().get_attr(target, args, kwargs)
            return found.to("meta") if isinstance(found, torch.Tensor) else found

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if "device" in kwargs:  # `torch.zeros(.., device=x.device)` was captured on another
                kwargs = {**kwargs, "device": "meta"}
            return super().call_function(target, args, kwargs)

        def run_node(self, n: Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad():
        Run(small).run(*feeds)
    return values


def _type(spec: TensorSpec, small: GraphModule) -> torch.dtype:
    """Of an input: real numbers come as the weights are."""
    import torch

    declared: torch.dtype = getattr(torch, spec.dtype)
    weights = (p.dtype for p in small.parameters() if p.is_floating_point())
    return next(weights, declared) if declared.is_floating_point else declared


def _sources(query: Node, small: GraphModule, values: dict[Node, Any]) -> dict[str, Tensor]:
    """Names of tensors and the rows of them that make the queries; empty where that is unclear."""
    between: set[Node] = set()
    givers: set[Node] = set()
    pending = [query]
    while pending:
        node = pending.pop()
        if node in between | givers or node.op == "get_attr":
            continue
        weight = argument(node, "weight") if packet_name(node) in _CHANNELS else None
        if node.op == "placeholder":
            return {}
        if getattr(weight, "op", "") == "get_attr":
            givers.add(node)
        else:
            between.add(node)
            pending += [n for n in node.all_input_nodes if _holds_tensors(values[n])]
    if len(givers) != 1:
        return {}
    (giver,) = givers
    rows = _influencing(giver, query, [n for n in small.graph.nodes if n in between], values, small)
    found = {str(argument(giver, "weight").target): rows}
    bias = argument(giver, "bias")
    return found if bias is None else {**found, **_rows(bias, rows, values)}


def _holds_tensors(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor | tuple | list)


def _influencing(
    giver: Node, query: Node, between: list[Node], values: dict[Node, Any], small: GraphModule
) -> Tensor:
    """Channels of what a layer gives that the queries depend on: where their gradient is not 0."""
    import torch
    from torch.fx.node import map_arg

    rng = torch.Generator().manual_seed(0)

    def known(node: Node) -> Any:
        if node not in made and node.op == "get_attr":
            made[node] = attribute(small, str(node.target)).detach()
        elif node not in made:
            value = values[node]
            is_tensor = isinstance(value, torch.Tensor)
            made[node] = torch.rand(value.shape, generator=rng) if is_tensor else value
        return made[node]

    with torch.enable_grad():
        start = torch.rand(values[giver].shape, generator=rng).requires_grad_()
        made: dict[Node, Any] = {giver: start * 1}
        for node in between:
            assert callable(node.target), "only calls lie between"
            made[node] = node.target(*map_arg(node.args, known), **map_arg(node.kwargs, known))
        (made[query] * torch.rand(made[query].shape, generator=rng)).sum().backward()
    assert start.grad is not None, "the queries depend on it"
    dim = _CHANNELS[packet_name(giver)] % start.dim()
    others = [d for d in range(start.dim()) if d != dim]
    return start.grad.abs().amax(others).nonzero().flatten()


def _rows(bias: Node, rows: Tensor, values: dict[Node, Any]) -> dict[str, Tensor]:
    """Rows of the tensors that a bias is made of: itself, or several behind each other."""
    if bias.op == "get_attr":
        return {str(bias.target): rows}
    found: dict[str, Tensor] = {}
    if packet_name(bias) == "cat":
        start = 0
        for part in bias.all_input_nodes:
            size = values[part].shape[0]
            mine = rows[(rows >= start) & (rows < start + size)] - start
            if part.op == "get_attr" and len(mine):
                found[str(part.target)] = mine
            start += size
    return found


def _times(tensor: Tensor, factor: Tensor) -> Tensor:
    import torch

    shape = (-1, *[1] * (tensor.dim() - 1))
    made = tensor.detach() * factor.to(tensor.dtype).reshape(shape)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made
