"""A network from source, plans and weights: what was pruned or made separable, made again."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.compress.exits.plan import ExitsPlan
from deploykit.compress.separable.plan import SeparablePlan
from deploykit.core import records
from deploykit.core.errors import BadInputError
from deploykit.core.types import Step
from deploykit.flow.plans import read_plans
from deploykit.flow.prune.size import smaller
from deploykit.load.modules import load_source, state_digest
from deploykit.load.sources import Source, resolve
from deploykit.load.weights import fit_weights, read_weights

NET = "net."
"""What the names of its weights begin with in a network with exits."""

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from deploykit.compress.prune.plan import Plan
    from deploykit.core.types import Model
    from deploykit.flow.plans import AnyPlan


def load_model(source: Source) -> Model:
    """The network in memory, as its source builds it or as plans change it, in evaluation mode.

    Raises:
        BadInputError: as `load_source` does; or a plan does not fit the network, or the weights
            do not fit what the plans leave.
        MissingExtraError: torch, timm or torchvision is not installed.
    """
    source = resolve(source)
    if not source.plans:
        return load_source(source)
    if source.weights is None:
        raise BadInputError(
            f"{source.plans[0]}: a network that a plan has changed needs its weights; add --weights"
        )
    plans = read_plans(source.plans)
    weights = read_weights(source.weights)
    whole = load_source(replace(source, plans=(), weights=None))
    made = whole
    inner = _of_the_network(weights) if isinstance(plans[-1], ExitsPlan) else weights
    for plan in plans:
        made = _changed(made, plan, inner)
    fit_weights(made.module, weights, source.weights)
    digests = {
        **{path.stem: records.sha256_of(path) for path in source.plans},
        "weights_file": records.sha256_of(source.weights),
        "state": state_digest(made.module),
    }
    first, *others = made.history
    first = replace(first, input_digests={**first.input_digests, **digests})
    # The last step is the one that caches go by.
    others[-1] = replace(others[-1], input_digests={**first.input_digests})
    return replace(made, history=(first, *others))


def _of_the_network(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network with exits, as the network itself calls its own."""
    return {
        name.removeprefix(NET): tensor for name, tensor in weights.items() if name.startswith(NET)
    }


def _changed(model: Model, plan: AnyPlan, weights: Mapping[str, Tensor]) -> Model:
    """One plan further; weights are those of the last one."""
    if isinstance(plan, SeparablePlan):
        return separated(model, plan)
    if isinstance(plan, ExitsPlan):
        return with_exits(model, plan)
    _take_indices(model.module, weights)
    return pruned(model, plan)


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


def separated(model: Model, plan: SeparablePlan) -> Model:
    """The network with the plan's convolutions split; what was given is not changed.

    Each starts from the least-squares split of the kernel that is there.

    Raises:
        BadInputError: the plan does not fit the network; the message says where.
    """
    from deploykit.compress.separable.convert import converted

    step = Step(
        name="separable",
        options={"layers": len(plan.layers), "rank": max((x.rank for x in plan.layers), default=0)},
        versions=model.history[-1].versions if model.history else {},
    )
    made = converted(model.module, plan)
    return replace(model, module=made, history=(*model.history, step))


def with_exits(model: Model, plan: ExitsPlan, *, seed: int = 0, frozen: bool = False) -> Model:
    """The network with a head behind each layer of the plan; what was given is copied.

    Args:
        model: gives logits [N, classes].
        plan: of it.
        seed: of the heads' initial weights.
        frozen: whether only heads learn.

    Raises:
        BadInputError: a layer of the plan is not there.
    """
    from deploykit.compress.exits.network import MultiExit

    step = Step(
        name="exits",
        options={"at": tuple(head.layer for head in plan.exits)},
        versions=model.history[-1].versions if model.history else {},
    )
    made = MultiExit(deepcopy(model.module), plan, seed=seed, frozen=frozen).eval()
    return replace(model, module=made, outputs=(), history=(*model.history, step))
