"""The oracle: does the cut network compute what the original does without those channels?

In float64, with random norms and scales, so that nothing hides behind a zero or a one: the
original with the plan's indices of every parameter set to zero, and its norms over all channels
evaluated on the kept ones, against the cut network. Right cuts agree to about 1e-13; the limit is
1e-9 of the largest output.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.compress.prune.analysis.edit import Edit
from deploykit.compress.prune.analysis.rules.call import packet_name
from deploykit.compress.prune.cutting.cut import build, copied, gone_of, replay
from deploykit.compress.prune.depth.bypass import after_blocks
from deploykit.compress.prune.graph.constants import memory_owners
from deploykit.compress.prune.graph.program import bodies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor
    from torch.fx import Graph, Node

    from deploykit.compress.prune.analysis.analyse import Analysis
    from deploykit.compress.prune.depth.bypass import Shallow
    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.core.types import TensorSpec

LIMIT = 1e-9


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the oracle saw.

    Attributes:
        difference: the largest, relative to the largest magnitude of the outputs.
        limit: on it.
    """

    difference: float
    limit: float = LIMIT

    @property
    def exact(self) -> bool:
        """Whether it is below the limit; not a number never is."""
        return self.difference < self.limit


def agreement(
    program: Program, plan: Plan, inputs: Sequence[TensorSpec], seed: int = 0
) -> Agreement:
    """Compare the cut network with the masked original.

    Args:
        program: of the original network.
        plan: what is removed.
        inputs: of the network, for made-up inputs.
        seed: of inputs and random scales.

    Raises:
        BadInputError: the plan does not fit the network.
    """
    import torch

    doubled = in_float64(program, seed)
    rest = after_blocks(doubled, plan)
    analysis = replay(rest.program, rest.plan)
    gone = gone_of(analysis, rest.plan)
    small = build(analysis, gone).eval()
    feeds = made_up(inputs, seed)
    with torch.no_grad():
        masked = _Masked(analysis, doubled, rest, gone)
        expected = _leaves(masked.run(*(feed.clone() for feed in feeds)))
        got = _leaves(small(*feeds))
    scale = max((float(tensor.abs().max()) for tensor in expected if tensor.numel()), default=0.0)
    difference = max(
        (float((a - b).abs().max()) for a, b in zip(expected, got, strict=True) if a.numel()),
        default=0.0,
    )
    return Agreement(difference / (scale or 1.0))


def made_up(inputs: Sequence[TensorSpec], seed: int) -> list[Tensor]:
    """Inputs in float64 where they are real numbers."""
    from deploykit.load.calls import to_tensor
    from deploykit.load.capture import example_sizes
    from deploykit.load.synthetic import synthetic_feeds

    feeds = synthetic_feeds(inputs, example_sizes(inputs), seed)
    tensors = [to_tensor(feeds[spec.name]) for spec in inputs]
    return [t.double() if t.is_floating_point() else t for t in tensors]


def in_float64(program: Program, seed: int) -> Program:
    """The program in float64 with random norms and scales. The original is not changed."""
    import torch
    from torch import fx

    gc.collect()  # graphs are full of cycles: another network in float64 may wait in one
    rng = torch.Generator().manual_seed(seed)
    tensors = {
        name: _doubled(tensor, rng)
        if name in program.names
        else tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in program.tensors.items()
    }  # fmt: skip
    _retie(program, tensors)
    graph, nodes = copied(program.module.graph)
    widen(graph)
    for old, new in nodes.items():
        new.meta = old.meta
    module = fx.GraphModule({**bodies(program.module), **tensors}, graph)
    shapes = {nodes[old]: shape for old, shape in program.shapes.items() if old in nodes}
    return replace(program, module=module, shapes=shapes, tensors=tensors)


def _doubled(tensor: Tensor, rng: torch.Generator) -> Tensor:
    """Vectors anew, so that norms and layer scales do something; matrices as they are.

    What was positive stays so: variances and temperatures.
    """
    import torch

    if not tensor.is_floating_point():
        return tensor
    new = tensor.detach().double()
    if tensor.dim() <= 1 or bool((tensor == 0).all()) or bool((tensor == 1).all()):
        new = torch.rand(tensor.shape, generator=rng, dtype=torch.float64)
        new = new + 0.5 if bool((tensor > 0).all()) else new * 1.5 - 0.5
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def _retie(program: Program, tensors: dict[str, Tensor]) -> None:
    """Names that shared a tensor share one again."""
    first: dict[int, str] = {}
    for name, tensor in program.tensors.items():
        known = first.setdefault(tensor.data_ptr() or id(tensor), name)
        if tensors[known].shape == tensors[name].shape:
            tensors[name] = tensors[known]


def widen(graph: Graph) -> None:
    """float64 wherever the graph says a smaller type."""
    import torch
    from torch.fx.node import map_aggregate

    small = (torch.float32, torch.float16, torch.bfloat16)

    def wide(arg: Any) -> Any:
        return torch.float64 if arg in small else arg

    for node in graph.nodes:
        node.args = map_aggregate(node.args, wide)
        node.kwargs = map_aggregate(node.kwargs, wide)


def _leaves(value: object) -> list[Tensor]:
    from deploykit.load.calls import named_outputs

    return list(named_outputs(value).values())


_OVER_CHANNELS = frozenset(
    {"layer_norm", "rms_norm", "group_norm", "batch_norm", "mean", "nanmean", "var", "std",
     "var_mean", "std_mean"}
)  # fmt: skip
_SAME_SHAPE = frozenset({"layer_norm", "rms_norm", "group_norm", "batch_norm"})


class _Masked:
    """The original graph with removed channels at zero, and nothing added by removed blocks."""

    def __init__(self, analysis: Analysis, whole: Program, rest: Shallow, gone: Any) -> None:
        self._analysis = analysis
        self._whole = whole.module
        self._rest = rest
        self._gone = gone
        self._tensors = dict(analysis.program.tensors)
        learnt = {name for name, _ in analysis.program.module.named_parameters()}
        for part in rest.plan.cuts:
            if part.parameter not in learnt:
                continue
            tensor = self._tensors[part.parameter].detach().clone()
            drop = [index for index in range(part.size) if index not in set(part.kept)]
            tensor.index_fill_(part.dim, _index(drop), 0)
            self._tensors[part.parameter] = tensor
        _retie(analysis.program, self._tensors)

    def run(self, *feeds: Tensor) -> object:
        from torch import fx

        masked = self
        names: Mapping[str, Tensor] = self._tensors

        class Run(fx.Interpreter):
            def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
                return names.get(str(target), None) if str(target) in names else super().get_attr(
                    target, args, kwargs
                )  # fmt: skip

            def run_node(self, n: Node) -> Any:
                if n in masked._rest.skipped:
                    return masked.unchanged(n, self.env[masked._rest.skipped[n]])
                if n.op == "call_function" and packet_name(n) in _OVER_CHANNELS:
                    args, kwargs = self.fetch_args_kwargs_from_env(n)
                    return masked.on_kept(n, args, kwargs)
                result = super().run_node(n)
                if n.op == "call_function" and packet_name(n) == "_weight_norm":
                    return result.nan_to_num()  # a row of zeros has no direction: 0 / 0
                return result

        return Run(self._whole).run(*feeds)

    def unchanged(self, node: Node, kept: Any) -> Any:
        """What a sum is without its block: in memory of its own where the sum was."""
        owners = memory_owners(self._whole)
        return kept if owners[node] is owners[self._rest.skipped[node]] else kept.clone()

    def on_kept(self, whole: Node, args: Any, kwargs: Any) -> Any:
        """A norm or mean over channels of the kept ones; zeros elsewhere."""
        from deploykit.compress.prune.analysis.trace import Value

        assert callable(whole.target), "an operator"
        node = self._rest.nodes.get(whole)
        if node is None:  # in a removed block
            return whole.target(*args, **kwargs)
        source = node.all_input_nodes[0]
        value = self._analysis.values[source]
        assert isinstance(value, Value), "norms take a tensor"
        assert callable(node.target), "an operator"
        edit = Edit(node, node, self._analysis.values, self._gone, _no_constant, {})
        dims = [dim for dim in _dims(edit, value) if edit.shrinks(value, dim)]
        if not dims:
            return node.target(*args, **kwargs)
        kept = {dim: _index(np.flatnonzero(edit.keeps(value, dim)).tolist()) for dim in dims}
        part = args[0]
        for dim, index in kept.items():
            part = part.index_select(dim, index)
        if packet_name(node) not in _SAME_SHAPE:
            return node.target(part, *args[1:], **kwargs)
        made = node.target(*_norm_args(edit, value, part, args, kept), **kwargs)
        for dim, index in kept.items():
            wide = made.new_zeros([*made.shape[:dim], args[0].shape[dim], *made.shape[dim + 1 :]])
            made = wide.index_copy(dim, index, made)
        return made


def _dims(edit: Edit, value: Any) -> Sequence[int]:
    """The dimensions that a norm or mean runs over."""
    name, rank = packet_name(edit.old), len(value.shape)
    if name == "group_norm":
        return (1,)
    if name == "batch_norm":
        return [dim for dim in range(rank) if dim != 1] if edit.arg("training") else ()
    if name in {"layer_norm", "rms_norm"}:
        return range(rank - len(edit.arg("normalized_shape")), rank)
    given = edit.arg("dim")
    if given is None or given == []:
        return range(rank)
    return [dim % rank for dim in ([given] if isinstance(given, int) else given)]


def _norm_args(edit: Edit, value: Any, part: Any, args: Any, kept: Any) -> list[Any]:
    """The arguments of a norm for the kept slice."""
    new = [part, *args[1:]]
    name = packet_name(edit.old)
    if name == "batch_norm":
        return new
    if name == "group_norm":
        new[1] = edit.groups_left(value, 1, args[1])
        first = 1
    else:
        first = len(value.shape) - len(args[1])
        new[1] = list(part.shape[first:])
    for place in (2, 3):
        if place < len(new) and hasattr(new[place], "index_select"):
            for dim, index in kept.items():
                new[place] = new[place].index_select(dim - first, index)
    return new


def _index(numbers: Sequence[int]) -> Tensor:
    import torch

    return torch.tensor(numbers, dtype=torch.int64)


def _no_constant(tensor: Any) -> Node:
    raise AssertionError(tensor)
