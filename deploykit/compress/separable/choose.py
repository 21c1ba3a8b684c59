"""Which convolutions of a network can be split, and why the others stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from deploykit.compress.separable.counts import most_rank, weights_split, weights_whole
from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from deploykit.compress.separable.options import SeparableOptions

_LEAST_SHARE = 4
"""Fewer filtered channels than a quarter of the outputs are a bottleneck: of a grey image at rank
1, one filter for all outputs. MobileNet's own first layer is whole for that reason (Howard et al.,
2017, table 1)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One convolution.

    Attributes:
        name: of its module.
        weight: shape of the kernel, [O, I / groups, *k].
        groups: of the convolution.
        rank: that it would be split at.
        why: it stays as it is, as the end of a sentence; "" where it can be split.
        transposed: whether its kernel is [I, O / groups, *k].
    """

    name: str
    weight: tuple[int, ...]
    groups: int
    rank: int
    why: str = ""
    transposed: bool = False

    @property
    def whole(self) -> int:
        """Weights as it is."""
        return weights_whole(self.weight)

    @property
    def split(self) -> int:
        """Weights when it is split."""
        return weights_split(self.weight, self.rank, self.groups)


def choices(module: nn.Module, options: SeparableOptions) -> tuple[Choice, ...]:
    """Every convolution of a network, in the order of its modules.

    Raises:
        BadInputError: a name or pattern that no convolution has, or one that was named and cannot
            be split.
    """
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d,
             nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # fmt: skip
    convs = {name: one for name, one in module.named_modules() if isinstance(one, kinds)}
    every = [name for name, _ in module.named_modules(remove_duplicate=False)]
    for pattern in (*options.layers, *options.skip):
        if not any(_fits(name, (pattern,)) for name in convs):
            there = "is no convolution, and has none" if pattern in every else "is not there"
            raise BadInputError(f"layer {pattern!r} {there}{nearest(pattern, convs)}")
    sharing = _sharing(convs)
    found = tuple(
        _choice(name, conv, options, sharing.get(name, "")) for name, conv in convs.items()
    )
    for choice in found:
        if choice.why and choice.name in options.layers:
            raise BadInputError(f"layer {choice.name!r} cannot be split: it {choice.why}")
    return found


def _fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a module, or one that it is in, is meant."""
    parts = name.split(".")
    places = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatchcase(place, pattern) for pattern in patterns for place in places)


def _sharing(convs: Mapping[str, nn.Module]) -> dict[str, str]:
    """For each whose kernel another module has as well, the name of that one."""
    owners: dict[int, list[str]] = {}
    for name, conv in convs.items():
        owners.setdefault(id(conv.weight), []).append(name)
    found = {}
    for names in owners.values():
        for name in names if len(names) > 1 else ():
            found[name] = next(other for other in names if other != name)
    return found


def _choice(name: str, conv: nn.Module, options: SeparableOptions, shares: str) -> Choice:
    weight = tuple(getattr(conv, "weight").shape)  # noqa: B009  (of a class with one, see above)
    groups = int(conv.groups)  # type: ignore[arg-type]  # likewise
    transposed = "Transpose" in type(conv).__name__
    rank = options.rank if transposed else min(options.rank, most_rank(weight, groups))
    plain = Choice(name, weight, groups, rank, transposed=transposed)
    # What it cannot do comes before what was not asked for.
    why = _cannot(plain, conv, shares) or _unasked(plain, options)
    return replace(plain, why=why)


def _cannot(choice: Choice, conv: nn.Module, shares: str) -> str:
    """Why there is no split of it, or ""."""
    from torch import nn

    reasons = {
        "is transposed, which runtimes have no fast depthwise kernels for": choice.transposed,
        f"is a {type(conv).__name__}, which computes in a way of its own": type(conv)
        not in {nn.Conv1d, nn.Conv2d, nn.Conv3d},
        "computes its kernel (weight normalisation?): remove that first": "weight"
        not in dict(conv.named_parameters(recurse=False)),
        "is pointwise already": all(size == 1 for size in choice.weight[2:]),
        "is depthwise already": choice.weight[1] == 1 and choice.groups > 1,
        f"shares its kernel with {shares}": bool(shares),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _unasked(choice: Choice, options: SeparableOptions) -> str:
    """Why it stays though it could be split, or ""."""
    middle = choice.weight[1] * choice.groups * choice.rank
    few = middle * _LEAST_SHARE < choice.weight[0] and choice.name not in options.layers
    reasons = {
        "was left out": _fits(choice.name, options.skip),
        "was not asked for": bool(options.layers) and not _fits(choice.name, options.layers),
        f"has {choice.whole} weights, and would have {choice.split} at rank {choice.rank}": (
            choice.split >= choice.whole
        ),
        f"would make all {choice.weight[0]} outputs of {middle} filtered "
        f"channel{'s' if middle > 1 else ''}; name it in layers to split it all the same": few,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
