"""What the loss would do without a channel, to first order.

A channel that goes takes the weights that read it along, so its share in the loss is, to first
order, the sum of weight times gradient over those weights: exactly the derivative with respect
to a gate on the channel, as its readers see it. Writers and norms are not added to it: theirs is
the same derivative seen from the other end, and would be counted twice. They stand in where
nothing that is learnt reads the channel (queries and keys meet in a product).

The gradients of single samples matter: at the end of training those of the whole data sum to 0,
whatever the channel is worth.

Sources: "taylor": Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
Inference", ICLR 2017 (arXiv:1611.06440), section 2.2: magnitude of the change, mean over samples.
"fisher": Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018
(arXiv:1801.05787), section 2.1: its square, which is the Fisher information of the gate; over
coupled channels: Liu et al., "Group Fisher Pruning for Practical Network Compression", ICML 2021
(arXiv:2108.00708), section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.choice.evidence import evaluating
from deploykit.compress.prune.choice.score import member_sums, over_mean, weights_of
from deploykit.compress.prune.structure import Role
from deploykit.core.errors import BadInputError, CheckFailedError
from deploykit.load.calls import refuse_call

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from deploykit.compress.prune.choice.evidence import Evidence
    from deploykit.compress.prune.structure import Group, Member, Structure


def score_gradients(
    module: nn.Module, structure: Structure, criterion: str, evidence: Evidence
) -> dict[str, NDArray[np.float64]]:
    """Estimated change of the loss by channel (or its square), over the group's mean.

    Args:
        module: is not changed; its `grad` fields are not touched.
        structure: of the network.
        criterion: "taylor" or "fisher".
        evidence: with a loss and labels.

    Raises:
        BadInputError: there is no loss, or there are no labels, or the data does not fit.
        CheckFailedError: the gradients are no numbers.
    """
    read = {group.name: _gates(group) for group in structure.free}
    read = {name: members for name, members in read.items() if members}
    if not read:
        raise BadInputError(f"criterion {criterion!r} finds no weights in any group; take random")
    names = sorted({member.parameter for members in read.values() for member in members})
    totals = {name: np.zeros(members[0].indices.shape[0]) for name, members in read.items()}
    for products in _products(module, names, evidence):
        cache: dict[tuple[str, int], NDArray[np.float64]] = {}
        for name, members in read.items():
            change = sum(member_sums(products, member, cache) for member in members)
            totals[name] += np.abs(change) if criterion == "taylor" else np.square(change)
    for name, total in totals.items():
        if not np.isfinite(total).all():
            raise CheckFailedError(
                f"the gradients of group {name} are not finite on {evidence.data.name}; prune "
                "with criterion l2"
            )
    return {name: over_mean(total) for name, total in totals.items()}


def _gates(group: Group) -> tuple[Member, ...]:
    """The weights that stand for a gate on each channel."""
    weights = weights_of(group)
    readers = tuple(member for member in weights if member.role is Role.READS)
    writers = tuple(member for member in weights if member.role is Role.WRITES)
    return readers or writers or weights


def _products(
    module: nn.Module, names: list[str], evidence: Evidence
) -> Iterator[Mapping[str, Tensor]]:
    """For each batch, weight times gradient of the named parameters."""
    import torch

    if evidence.loss is None:
        raise BadInputError("this criterion needs a loss; take l1")
    parameters = dict(module.named_parameters(remove_duplicate=False))
    chosen = [parameters[name] for name in names]
    frozen = [parameter for parameter in chosen if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad = True
        with evaluating(module), torch.enable_grad():
            for inputs, labels in evidence.batches(chosen[0].device):
                if labels is None:
                    raise BadInputError(
                        f"{evidence.data.name} has no labels, and this criterion needs them; "
                        "take activation or l2"
                    )
                loss = _loss(module, inputs, labels, evidence)
                gradients = torch.autograd.grad(loss, chosen, materialize_grads=True)
                yield {
                    name: parameter.detach() * gradient
                    for name, parameter, gradient in zip(names, chosen, gradients, strict=True)
                }
    finally:
        for parameter in frozen:
            parameter.requires_grad = False


def _loss(
    module: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor, evidence: Evidence
) -> Tensor:
    assert evidence.loss is not None  # `_products` has seen to it
    try:
        return evidence.loss(module, inputs, labels)
    except Exception as error:  # noqa: BLE001  (users' code raises what it likes)
        refuse_call(error, evidence.inputs)
