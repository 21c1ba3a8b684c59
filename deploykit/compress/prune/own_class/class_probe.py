"""Does the class run with other sizes? Asked on tensors without data, which takes milliseconds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.compress.prune.cutting.cut import cut
from deploykit.compress.prune.own_class.attributes import changes_of, doubtful
from deploykit.compress.prune.own_class.class_check import ClassAgreement, batches, bolder, running
from deploykit.compress.prune.own_class.class_copy import smaller, tensor_of
from deploykit.load.quiet import quiet_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deploykit.compress.prune.graph.program import Program
    from deploykit.compress.prune.plan import Plan
    from deploykit.core.types import Model


def weightless(program: Program) -> Program:
    """The program with weights on the meta device; what shares memory still does.

    Constants keep their values, which the analysis looks at.
    """
    from torch import fx

    from deploykit.compress.prune.cutting.cut import copied

    first: dict[tuple[int, object], Tensor] = {}
    tensors = {
        name: first.setdefault((t.data_ptr() or id(t), t.shape), without_data(t))
        if name in program.names and t.is_floating_point()
        else t
        for name, t in program.tensors.items()
    }
    graph, nodes = copied(program.module.graph)
    for old, new in nodes.items():
        new.meta = old.meta
    module = fx.GraphModule(dict(tensors), graph)
    shapes = {nodes[old]: shape for old, shape in program.shapes.items() if old in nodes}
    return replace(program, module=module, shapes=shapes, tensors=tensors)


def without_data(tensor: Tensor) -> Tensor:
    """As large, and holding nothing."""
    import torch

    empty = tensor.detach().to("meta")
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def runs(model: Model, empty: Program, plan: Plan) -> ClassAgreement:
    """Whether the class runs with a plan's sizes; what it computes is another question.

    Args:
        model: the network; not changed.
        empty: the `weightless` program of it.
        plan: what is removed.
    """
    small = cut(empty, plan).eval()

    constants = {
        name: without_data(tensor)
        for name in empty.tensors.keys() - empty.names
        if (tensor := tensor_of(small, name)) is not None and tensor.is_floating_point()
    }

    def attempt(bold: frozenset[str]) -> ClassAgreement:
        made = smaller(model, empty, small, rest=without_data, bold=bold, folded=constants)
        return _run(model, made.eval())

    return bolder(attempt, doubtful(model.module, changes_of(empty.module.graph, small.graph)))


def _run(model: Model, module: nn.Module) -> ClassAgreement:
    import torch

    from deploykit.load.calls import arguments, named_outputs
    from deploykit.load.synthetic import synthetic_feeds

    feeds = synthetic_feeds(model.inputs, batches(model.inputs)[0], 0)
    call = arguments(module, model.inputs, feeds)
    args = [arg.to("meta") for arg in call.args]
    kwargs = {name: arg.to("meta") for name, arg in call.kwargs.items()}
    with quiet_torch(), torch.no_grad(), torch.device("meta"), running(module) as place:
        try:
            named_outputs(module(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (users' classes raise what they like)
            return ClassAgreement.failed(module, place, error)
    return ClassAgreement(0.0)
