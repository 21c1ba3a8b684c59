"""Split layers one after the other, each fitted to what it sees behind those that were split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from deploykit.compress.separable.convert import conv_of, put
from deploykit.compress.separable.fit import MOST_UNKNOWNS, Kernels, fitted
from deploykit.compress.separable.graph_layers import with_layers
from deploykit.compress.separable.moments import Moments
from deploykit.compress.separable.split import (
    SeparableConv,
    kernels_of,
    put_kernels,
    split,
    taps_of,
)
from deploykit.core.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from deploykit.compress.separable.plan import SeparablePlan, SplitLayer
    from deploykit.compress.separable.split import Conv
    from deploykit.core.progress import Progress
    from deploykit.load.calls import Arguments

_ROWS = 65536  # places of all samples that a layer is fitted to, and about so many numbers at once:
_NUMBERS = 1 << 24
_HELD = 4  # every fourth batch only judges


@dataclass(frozen=True, slots=True)
class Fit:
    """How far a split layer is off, over samples that it was not fitted to.

    Attributes:
        nearest: with the kernels that are nearest over weights: the mean square of what its
            outputs miss, as a share of the outputs' variance.
        fitted: with those that were fitted.
    """

    nearest: float
    fitted: float


def refitted(
    module: nn.Module,
    plan: SeparablePlan,
    batches: Callable[[], Iterator[Arguments]],
    *,
    samples: int,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[nn.Module, dict[str, Fit]]:
    """A copy with the plan's layers split and fitted, and how far each is off, by name.

    Args:
        module: the original, in evaluation mode; not changed.
        plan: layers in the order of computation.
        batches: gives the same batches each time it is called, four or more.
        samples: how many they are together.
        seed: of the choice of places in large images.
        progress: told before each layer.

    Raises:
        BadInputError: the plan does not fit the network.
    """
    whole, made = with_layers(module), with_layers(module)
    found = {}
    with torch.no_grad():
        for number, layer in enumerate(plan.layers):
            progress(f"fitting {layer.name}", number / len(plan.layers))
            conv = conv_of(made, layer)
            new = split(conv, layer.rank)
            sums = _Sums.of(new, conv, max(1, -(-_ROWS // samples)), seed)
            for batch, x, y in _pairs(whole, made, layer, batches):
                sums.add(batch, x, y)
            found[layer.name] = _fit(new, sums, bias=conv.bias)
            put(made, layer.name, new)
    return made, found


@dataclass(slots=True)
class _Sums:
    """What one layer is fitted to.

    Attributes:
        taps: gives the taps that its kernels weigh; of a layer that is too large, what its
            depthwise kernels give, so that only the pointwise ones are fitted.
        whole: whether all of it is fitted.
        seen: what it is fitted to.
        held: what judges.
        most: places of one sample that are looked at.
        draws: of these places.
    """

    taps: Conv
    whole: bool
    seen: Moments
    held: Moments
    most: int
    draws: torch.Generator

    @classmethod
    def of(cls, new: SeparableConv, conv: Conv, most: int, seed: int) -> _Sums:
        """Nothing yet."""
        depthwise, pointwise = kernels_of(new)
        groups, inside, rank, places = depthwise.shape
        whole = depthwise[0].numel() <= MOST_UNKNOWNS
        width = inside * (places if whole else rank)
        seen, held = (Moments.empty(groups, width, pointwise.shape[1]) for _ in range(2))
        taps = taps_of(conv) if whole else new.parts[0]
        return cls(taps, whole, seen, held, most, torch.Generator().manual_seed(seed))

    def add(self, number: int, x: Tensor, y: Tensor) -> None:
        """Count in some places of each sample, drawn at random, the same ones of both.

        Args:
            number: of the batch.
            x: what goes into the layer.
            y: what shall come out.
        """
        to = self.held if number % _HELD == _HELD - 1 else self.seen
        groups, places = len(to.taps), y[0, 0].numel()
        step = max(1, _NUMBERS // (self.taps.out_channels * places))
        for start in range(0, len(y), step):
            wanted = y[start : start + step].reshape(-1, groups, y.shape[1] // groups, places)
            taps = self.taps(x[start : start + step]).reshape(len(wanted), groups, -1, places)
            if places > self.most:
                chosen = torch.randperm(places, generator=self.draws)[: self.most]
                taps, wanted = taps[..., chosen], wanted[..., chosen]
            to.add(*(one.permute(0, 3, 1, 2).flatten(0, 1) for one in (taps, wanted)))


def _fit(new: SeparableConv, sums: _Sums, bias: Tensor | None) -> Fit:
    """Fit a split layer in place, and say how far it is off."""
    depthwise, pointwise = kernels_of(new)
    groups, outputs, inside, rank = pointwise.shape
    zero = pointwise.new_zeros(groups, outputs)
    start = Kernels(
        depthwise if sums.whole else depthwise.new_ones(groups, inside * rank, 1, 1),
        pointwise if sums.whole else pointwise.reshape(groups, outputs, -1, 1),
        zero if bias is None else bias.double().reshape(zero.shape),
    )
    best = fitted(start, sums.seen, sums.held, bias=bias is not None, both=sums.whole)
    put_kernels(
        new,
        best.depthwise if sums.whole else depthwise,
        best.pointwise.reshape(pointwise.shape),
    )
    if new.parts[1].bias is not None:
        new.parts[1].bias.copy_(best.bias.flatten())
    return Fit(sums.held.error(start.whole()), sums.held.error(best.whole()))


def _pairs(
    whole: nn.Module,
    made: nn.Module,
    layer: SplitLayer,
    batches: Callable[[], Iterator[Arguments]],
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number of the batch, what the layer sees in `made`, and what it gives in `whole`."""
    seen: list[Tensor] = []
    given: list[Tensor] = []
    hooks = (
        made.get_submodule(layer.name).register_forward_hook(
            lambda _, args, __: seen.append(args[0])
        ),
        whole.get_submodule(layer.name).register_forward_hook(
            lambda _, __, output: given.append(output)
        ),
    )
    try:
        for number, call in enumerate(batches()):
            for network in (made, whole):
                network(*call.args, **call.kwargs)
            for x, y in zip(seen, given, strict=True):  # one pair for each time it is called
                yield number, x, y
            seen.clear()
            given.clear()
    finally:
        for hook in hooks:
            hook.remove()
