"""How strongly channels are active, as the layers that read them see it.

Calls of torch's functions are watched (`TorchFunctionMode`), and a layer is known by the weight
that it is called with. This works alike for a user's modules and for graphs of ATen operators,
which have no modules to hook into.

Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
ICLR 2017 (arXiv:1611.06440), section 2.2, "Activation"; here the mean magnitude, since networks
without ReLU have negative activations too.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.compress.prune.choice.evidence import evaluating
from deploykit.compress.prune.choice.score import over_mean, weights_of
from deploykit.compress.prune.structure import Role
from deploykit.core.errors import BadInputError
from deploykit.load.calls import refuse_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from deploykit.compress.prune.choice.evidence import Evidence
    from deploykit.compress.prune.structure import Group, Member, Structure

    Seen = dict[tuple[str, Role], list[NDArray[np.float64]]]


def score_activations(
    module: nn.Module, structure: Structure, evidence: Evidence
) -> dict[str, NDArray[np.float64]]:
    """Mean magnitude of each channel over samples and positions, over the group's mean.

    What counts is what readers take in: behind norm and activation. Where no reader can be
    watched (grouped convolutions), it is what writers put out. Groups of which neither is called
    with its own weight (which is computed first, say) are left out.

    Args:
        module: is not changed.
        structure: of the network.
        evidence: labels are not needed.

    Raises:
        BadInputError: the data does not fit, or nothing could be watched.
    """
    import torch

    parameters = dict(module.named_parameters(remove_duplicate=False))
    watched = {m.parameter for group in structure.free for m in weights_of(group)}
    names = {id(parameters[name]): name for name in sorted(watched)}
    seen: Seen = {}
    device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
    with evaluating(module), torch.no_grad(), _watching(names, seen):
        for inputs, _ in evidence.batches(device):
            try:
                module(*inputs)
            except Exception as error:  # noqa: BLE001  (users' code raises what it likes)
                refuse_call(error, evidence.inputs)
    means = {key: np.mean(values, axis=0) for key, values in seen.items()}
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    result: dict[str, NDArray[np.float64]] = {}
    for group in structure.free:
        values = _by_channel(group, means, shapes)
        if values is not None:
            result[group.name] = over_mean(values)
    if not result:
        raise BadInputError("criterion 'activation' could watch no layer of this network; take l1")
    return result


def _by_channel(
    group: Group,
    means: Mapping[tuple[str, Role], NDArray[np.float64]],
    shapes: Mapping[str, tuple[int, ...]],
) -> NDArray[np.float64] | None:
    for role in (Role.READS, Role.WRITES):
        found = [
            means[member.parameter, role][member.indices].mean(axis=1)
            for member in weights_of(group)
            if member.role is role and _fits(member, means.get((member.parameter, role)), shapes)
        ]
        if found:
            return np.asarray(np.mean(found, axis=0), np.float64)
    return None


def _fits(
    member: Member, mean: NDArray[np.float64] | None, shapes: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether the indices of the weight's dimension are those of the activation's channels."""
    return mean is not None and len(mean) == shapes[member.parameter][member.dim]


@contextmanager
def _watching(names: Mapping[int, str], seen: Seen) -> Iterator[None]:
    """Note what goes into and comes out of each call with one of these tensors as its weight."""
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: tuple[type, ...],
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            given = (*args, *(kwargs or {}).values())
            weight = next((arg for arg in given[1:] if id(arg) in names), None)
            result = func(*args, **(kwargs or {}))
            if weight is not None:
                for role, activation in ((Role.READS, given[0]), (Role.WRITES, result)):
                    mean = _mean_magnitude(activation, weight)
                    if mean is not None:
                        seen.setdefault((names[id(weight)], role), []).append(mean)
            return result

    with Watch():
        yield


def _mean_magnitude(activation: object, weight: Tensor) -> NDArray[np.float64] | None:
    """By channel, over all other dimensions: dimension 1 of images, the last of vectors."""
    from torch import Tensor

    if not isinstance(activation, Tensor) or not activation.is_floating_point():
        return None
    if activation.dim() < weight.dim() or weight.dim() < 2:
        return None
    by_channel = activation.movedim(1 if weight.dim() > 2 else -1, 0)
    mean: NDArray[np.float64] = by_channel.flatten(1).abs().double().mean(1).cpu().numpy()
    return mean
