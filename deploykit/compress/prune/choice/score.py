"""How important each channel of each group is.

All that goes with a channel is looked at together: a channel whose writer is small and whose
readers are large is not small. The result is comparable between groups, so that they can be
ranked together:

*  all but two criteria are divided by their group's mean. How large weights are says more about a
   layer's place than about its worth (DepGraph, section 3.3). The change of a loss needs it
   too: one of 512 channels matters less than one of 16, and a global ranking would take all
   from where channels are many and cheap;
*  scales of norms ("bn-scale") are what they are: network slimming trains them so that they can
   be ranked over the network. "random" is uniform.

Sources: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (arXiv:1608.08710), section
3.1; Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023 (arXiv:2301.12900), section
3.3; Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017
(arXiv:1708.06519), section 3.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from deploykit.compress.prune.structure import Role
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from deploykit.compress.prune.choice.evidence import Evidence
    from deploykit.compress.prune.structure import Group, Member, Structure


def score(
    module: nn.Module,
    structure: Structure,
    criterion: str,
    *,
    evidence: Evidence | None = None,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Importance of every channel of every free group; the least important go first.

    Args:
        module: its parameters have the names that the structure has. It is not changed.
        structure: of the network.
        criterion: one of `options.CRITERIA`.
        evidence: for the criteria of `options.NEED_DATA`.
        seed: for "random".

    Returns:
        By group name float64 [channels], 0 or more. A group about which the criterion says
        nothing ("bn-scale" where there is no norm) is left out.

    Raises:
        BadInputError: the criterion needs data or labels and there are none, the data does not
            fit, or the criterion says nothing about any group.
    """
    if criterion == "random":
        return {group.name: _draws(group, seed) for group in structure.free}
    if criterion in {"l1", "l2"}:
        return _magnitudes(module, structure, 1 if criterion == "l1" else 2)
    if criterion == "bn-scale":
        return _norm_scales(module, structure)
    if evidence is None:
        raise BadInputError(f"criterion {criterion!r} needs data: give --data, or take l1")
    if criterion == "activation":
        from deploykit.compress.prune.choice.score_activations import score_activations

        return score_activations(module, structure, evidence)
    from deploykit.compress.prune.choice.score_gradients import score_gradients

    return score_gradients(module, structure, criterion, evidence)


def over_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of one group divided by their mean; all zeros stay zeros."""
    mean = values.mean()
    return values / mean if mean > 0 else values


def is_bias(member: Member) -> bool:
    """Whether it is added to channels; biases say where a channel lies, not what it is worth."""
    return member.parameter.rpartition(".")[2].endswith(("bias", "beta"))


def weights_of(group: Group) -> tuple[Member, ...]:
    """Learnt members of a group that multiply."""
    return tuple(member for member in group.members if member.learnt and not is_bias(member))


def _draws(group: Group, seed: int) -> NDArray[np.float64]:
    # By name, so that the draws of one group don't depend on which others there are.
    return np.random.default_rng((seed, zlib.crc32(group.name.encode()))).random(group.channels)


def _magnitudes(
    module: nn.Module, structure: Structure, power: int
) -> dict[str, NDArray[np.float64]]:
    """L1 or L2 norm of all weights that go with a channel, over the group's mean."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    sums: dict[tuple[str, int], NDArray[np.float64]] = {}
    result: dict[str, NDArray[np.float64]] = {}
    for group in structure.free:
        total = np.zeros(group.channels)
        for member in weights_of(group):
            key = (member.parameter, member.dim)
            if key not in sums:
                sums[key] = _power_sums(parameters[member.parameter], member.dim, power)
            total += sums[key][member.indices].sum(axis=1)
        result[group.name] = over_mean(total ** (1 / power))
    return result


def _power_sums(tensor: Tensor, dim: int, power: int) -> NDArray[np.float64]:
    """Of |w|^p over all dimensions but one."""
    import torch

    others = _all_but(tensor, dim)
    plain = tensor.detach().float()
    norms = torch.linalg.vector_norm(plain, power, others) if others else plain.abs()
    sums: NDArray[np.float64] = (norms.double() ** power).cpu().numpy()
    return sums


def _all_but(tensor: Tensor, dim: int) -> tuple[int, ...]:
    return tuple(other for other in range(tensor.dim()) if other != dim % tensor.dim())


def _norm_scales(module: nn.Module, structure: Structure) -> dict[str, NDArray[np.float64]]:
    """Mean magnitude of the factors that norms (and layer scales) give a channel."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    result: dict[str, NDArray[np.float64]] = {}
    for group in structure.free:
        scales = [
            _factors(parameters[member.parameter], member)
            for member in weights_of(group)
            if member.role is Role.SCALES and parameters[member.parameter].dim() == 1
        ]
        if scales:
            result[group.name] = np.mean(scales, axis=0)
    if not result:
        raise BadInputError(
            "criterion 'bn-scale' needs norms with weights, and no group has any; take l1"
        )
    return result


def _factors(tensor: Tensor, member: Member) -> NDArray[np.float64]:
    values = tensor.detach().abs().double().cpu().numpy()
    means: NDArray[np.float64] = values[member.indices].mean(axis=1)
    return means


def member_sums(
    products: Mapping[str, Tensor],
    member: Member,
    cache: dict[tuple[str, int], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """A member's elements of some tensor of its parameter's shape, summed by channel.

    Args:
        products: by parameter name.
        member: of a group.
        cache: of sums over all dimensions but one, which groups may share.
    """
    import torch

    key = (member.parameter, member.dim)
    if key not in cache:
        tensor = products[member.parameter]
        others = _all_but(tensor, member.dim)
        summed = tensor.sum(others, dtype=torch.float64) if others else tensor.double()
        cache[key] = summed.cpu().numpy()
    sums: NDArray[np.float64] = cache[key][member.indices].sum(axis=1)
    return sums
