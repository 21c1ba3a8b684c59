"""Which head each layer gets: found by one run of the network."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from deploykit.compress.distill.graph_layers import with_layers
from deploykit.compress.distill.layers import watching
from deploykit.compress.exits.network import logits_of
from deploykit.compress.exits.options import AUTO, CONV, POOL
from deploykit.compress.exits.plan import ExitHead, ExitsPlan
from deploykit.core.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from deploykit.compress.distill.layers import Seen
    from deploykit.load.calls import Arguments

_MANY_PLACES = 7
"""From this many on along each dimension, a mean alone says little of what is where."""
_MOST_HIDDEN = 256


def heads_for(net: nn.Module, given: Arguments, layers: Sequence[str], head: str) -> ExitsPlan:
    """A plan for exits behind these layers.

    Args:
        net: in evaluation mode; not changed.
        given: a few samples.
        layers: names of modules, in any order.
        head: one of `deploykit.compress.exits.options.HEADS`.

    Raises:
        BadInputError: there is no such layer (with the nearest name), it is called more than once
            or not at all, its output has no usable shape, or the network gives no logits.
    """
    opened = with_layers(net, layers)
    with torch.no_grad(), watching(opened, layers, "network") as seen:
        logits = logits_of(opened(*given.args, **given.kwargs))
    for name in layers:
        if len(seen[name].calls) != 1:
            raise BadInputError(
                f"layer {name!r} is called {len(seen[name].calls)} times, and an exit reads one "
                "output: take a layer that is called once"
            )
    order = sorted(layers, key=lambda name: seen[name].turns[0])
    heads = tuple(_head(name, seen[name], logits, head) for name in order)
    return ExitsPlan(heads, int(logits.shape[1]))


def _head(name: str, seen: Seen, logits: Tensor, kind: str) -> ExitHead:
    (found,) = seen.calls
    if not found.is_floating_point():
        raise BadInputError(f"layer {name!r} gives {found.dtype}, and an exit reads floats")
    if found.shape == logits.shape and torch.equal(found, logits):
        raise BadInputError(f"layer {name!r} is the network's own end: take one before it")
    if len(found) != len(logits):
        raise BadInputError(
            f"layer {name!r} gives {list(found.shape)} for {len(logits)} samples: an exit needs "
            "one row a sample"
        )
    places = found.shape[2:]
    if len(places) > 3:
        raise BadInputError(
            f"layer {name!r} gives {list(found.shape)}: an exit reads [N, C] to [N, C, D, H, W]"
        )
    channels = int(found.shape[1])
    chosen = kind
    if kind == AUTO:
        many = prod(places) >= _MANY_PLACES ** len(places)
        chosen = CONV if places and many and not seen.last else POOL
    if chosen == CONV and not places:
        raise BadInputError(
            f"layer {name!r} gives {list(found.shape)}, with no places for a convolution: "
            "--head pool"
        )
    hidden = min(2 * channels, max(_MOST_HIDDEN, channels)) if chosen == CONV else 0
    return ExitHead(name, chosen, channels, hidden, len(places), normed=seen.last)
