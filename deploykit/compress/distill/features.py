"""Losses between layers: hints, and attention maps.

Hints: the student's layer, through a projection where it is narrower, shall give what the
teacher's gives. Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (arXiv:1412.6550),
eq. 3; the regressor is a 1x1 convolution, which needs no size of its own.

Attention: both shall be most active at the same places. Zagoruyko and Komodakis, "Paying More
Attention to Attention", ICLR 2017 (arXiv:1612.03928), eq. 2 with squares and means over places,
as the authors' own code has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import nn

from deploykit.compress.distill.options import layers_of
from deploykit.core.errors import BadInputError
from deploykit.train.objective import Term

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from deploykit.compress.distill.layers import Seen
    from deploykit.compress.distill.options import DistillOptions


class Features(nn.Module):
    """All pairs of layers, with the projections that hints need.

    Projections are trained beside the student and are no part of it.
    """

    def __init__(self, options: DistillOptions) -> None:
        super().__init__()
        self.hints = tuple(layers_of(text) for text in options.hints)
        self.attention = tuple(layers_of(text) for text in options.attention)
        self._options = options
        self.projections = nn.ModuleDict()

    @property
    def of_student(self) -> list[str]:
        """Names of the student's layers."""
        return [student for student, _ in (*self.hints, *self.attention)]

    @property
    def of_teacher(self) -> list[str]:
        """Names of the teacher's layers."""
        return [teacher for _, teacher in (*self.hints, *self.attention)]

    def fit(self, ours: Mapping[str, Seen], theirs: Mapping[str, Seen]) -> None:
        """Make the projections for layers of these shapes; the global generator draws them.

        Raises:
            BadInputError: two layers of a pair cannot be compared; the message says why.
        """
        for pair in self.hints:
            for number, (one, other) in enumerate(_calls(pair, ours, theirs)):
                if one.shape[1] != other.shape[1]:
                    made = nn.Linear(one.shape[1], other.shape[1])
                    self.projections[_key(pair, number)] = made
        for pair in self.attention:
            for one, _ in _calls(pair, ours, theirs):
                if one.dim() == 2:
                    raise BadInputError(
                        f"attention {_title(pair)}: these layers give one number a channel, and "
                        "attention compares places; take a convolution, or hints"
                    )

    def forward(self, ours: Mapping[str, Seen], theirs: Mapping[str, Seen]) -> dict[str, Term]:
        """The term of each pair: "hint LAYER" and "attention LAYER" (or STUDENTS=TEACHERS)."""
        found = {}
        for pair in self.hints:
            values = [
                self._hint(one, other, _key(pair, number))
                for number, (one, other) in enumerate(_calls(pair, ours, theirs))
            ]
            found[f"hint {_title(pair)}"] = Term(_mean(values), self._options.hint_weight)
        for pair in self.attention:
            values = [attention_loss(*both) for both in _calls(pair, ours, theirs)]
            found[f"attention {_title(pair)}"] = Term(_mean(values), self._options.attention_weight)
        return found

    def _hint(self, ours: Tensor, theirs: Tensor, key: str) -> Tensor:
        ours, theirs = _of_one_size(ours, theirs)
        if key in self.projections:
            ours = self.projections[key](ours.movedim(1, -1)).movedim(-1, 1)
        return F.mse_loss(ours.float(), theirs.float())


def attention_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """How far two attention maps are apart, the mean over samples and places.

    Args:
        ours: of the student, shape [N, c, ...].
        theirs: of the teacher, shape [N, C, ...]; where it has other sizes, the maps of both are
            pooled to the smaller ones.
    """
    maps = _of_one_size(*(one.float().pow(2).sum(dim=1, keepdim=True) for one in (ours, theirs)))
    ours, theirs = (F.normalize(one.flatten(1), dim=1) for one in maps)
    return (ours - theirs).pow(2).mean()


def _of_one_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    sizes = [min(pair) for pair in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
    return pooled(ours, sizes), pooled(theirs, sizes)


def pooled(feature: Tensor, sizes: Sequence[int]) -> Tensor:
    """Adaptive average pooling to smaller sizes, of any number of dimensions.

    By products with matrices: torch's own has no deterministic gradient on GPUs.

    Args:
        feature: shape [N, C, ...].
        sizes: of the dimensions behind the channels.
    """
    for dim, size in enumerate(sizes, start=2):
        if feature.shape[dim] != size:
            means = _window_means(feature.shape[dim], size).to(feature)
            feature = (feature.movedim(dim, -1) @ means).movedim(-1, dim)
    return feature


def _window_means(before: int, after: int) -> Tensor:
    """Shape [before, after]; a column has the share of each place in one mean."""
    found = torch.zeros(before, after)
    for place in range(after):
        start, end = place * before // after, -((place + 1) * before // -after)
        found[start:end, place] = 1 / (end - start)
    return found


def _calls(
    pair: tuple[str, str], ours: Mapping[str, Seen], theirs: Mapping[str, Seen]
) -> list[tuple[Tensor, Tensor]]:
    """What both layers gave, call by call.

    Raises:
        BadInputError: one is never called, or they are called or shaped differently.
    """
    mine, taught = ours[pair[0]].calls, theirs[pair[1]].calls
    for who, name, calls in (("student", pair[0], mine), ("teacher", pair[1], taught)):
        if not calls:
            raise BadInputError(
                f"the {who}'s layer {name!r} is never called as a module, so that it gives "
                "nothing; take one inside or around it"
            )
    if len(mine) != len(taught):
        raise BadInputError(
            f"{_title(pair)}: the student calls its layer {len(mine)} times and the teacher "
            f"{len(taught)}; take layers that are called equally often"
        )
    for one, other in zip(mine, taught, strict=True):
        if one.dim() != other.dim():
            raise BadInputError(
                f"{_title(pair)}: the student's layer gives {_shape(one)} and the teacher's "
                f"{_shape(other)}; take layers with equally many dimensions"
            )
    return list(zip(mine, taught, strict=True))


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def _key(pair: tuple[str, str], call: int) -> str:
    """A name that a module dictionary takes."""
    return f"{pair[0]}={pair[1]} {call}".replace(".", "/")


def _title(pair: tuple[str, str]) -> str:
    return pair[0] if pair[0] == pair[1] else f"{pair[0]}={pair[1]}"


def _shape(feature: Tensor) -> str:
    return f"[N, {', '.join(str(size) for size in feature.shape[1:])}]"
