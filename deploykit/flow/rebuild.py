"""A network from source, plan and weights: what pruning left, made again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.types import Step
from deploykit.flow.prune.size import smaller
from deploykit.load.modules import load_source, state_digest
from deploykit.load.sources import Source, resolve
from deploykit.load.weights import fit_weights, read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from deploykit.compress.prune.plan import Plan
    from deploykit.core.types import Model


def load_model(source: Source) -> Model:
    """The network in memory, whole or pruned, in evaluation mode.

    Raises:
        BadInputError: as `load_source` does; or the plan does not fit the network, or the weights
            do not fit what it leaves.
        MissingExtraError: torch, timm or torchvision is not installed.
    """
    source = resolve(source)
    if source.plan is None:
        return load_source(source)
    from deploykit.compress.prune.plan import PLAN, Plan

    if source.weights is None:
        raise BadInputError(f"{source.plan}: a pruned network needs its weights; add --weights")
    plan = records.load(source.plan, Plan, PLAN)
    weights = read_weights(source.weights)
    whole = load_source(replace(source, plan=None, weights=None))
    _take_indices(whole.module, weights)
    small = pruned(whole, plan)
    fit_weights(small.module, weights, source.weights)
    digests = {
        **whole.history[-1].input_digests,
        "plan": records.sha256_of(source.plan),
        "weights_file": records.sha256_of(source.weights),
        "state": state_digest(small.module),
    }
    step = replace(whole.history[-1], input_digests=digests)
    return replace(small, history=(step, *small.history[len(whole.history) :]))


def _take_indices(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Buffers of whole numbers as they were saved: a plan depends on a permutation drawn at random.

    Args:
        module: made by the source, changed in place.
        weights: of what the plan leaves; what it cuts has another shape there.
    """
    for name, buffer in module.named_buffers():
        saved = weights.get(name)
        if saved is not None and saved.shape == buffer.shape and not buffer.is_floating_point():
            buffer.copy_(saved)


def pruned(model: Model, plan: Plan) -> Model:
    """The network without what the plan removes; what was given is not changed.

    Raises:
        BadInputError: the plan does not fit the network; the message says where.
        CannotKeepClassError: it was made of a class that is another one now.
    """
    from deploykit.compress.prune.graph.program import program_of

    small = smaller(model, program_of(model), plan, keep_class=plan.keeps_class)
    step = Step(
        name="prune",
        options={"cuts": len(plan.cuts), "blocks": tuple(plan.blocks), "heads": plan.heads},
        versions=model.history[-1].versions if model.history else {},
    )
    return replace(small, history=(*model.history, step))
