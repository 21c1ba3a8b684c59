"""What layers of a network give on the way, by hooks that are gone afterwards."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from torch import Tensor, nn

from deploykit.compress.distill.graph_layers import opened_name
from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_CHANNELS_FIRST = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d,
)  # fmt: skip
"""Layers whose outputs are [N, C, ...]. Where a layer holds none and makes its channels with linear
layers or layer normalisation, they are last; of three dimensions [N, L, C] is usual."""
_WRAPPERS = {"DistributedDataParallel": "module", "OptimizedModule": "_orig_mod", "AtSize": "inner"}
"""Classes that are put around a network, and where they keep it."""


@dataclass(slots=True)
class Seen:
    """What one layer gave in one call of the network.

    Attributes:
        calls: its output of each call, shape [n, c, ...]: channels second, whatever the layer has.
        turns: the number of each call among those of all layers that are watched.
        last: whether the layer itself has channels last, as transformers do.
    """

    calls: list[Tensor] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    last: bool = False


@contextmanager
def watching(net: nn.Module, layers: Iterable[str], who: str) -> Iterator[Mapping[str, Seen]]:
    """Collect what layers give while the network is called in this block.

    Args:
        net: it may be wrapped for several processes or compiled.
        layers: names of modules, as in `named_modules()`.
        who: whose they are, for errors: "student" or "teacher".

    Raises:
        BadInputError: there is no such layer (with the nearest name).
    """
    plain = unwrapped(net)
    modules = dict(plain.named_modules())
    seen: dict[str, Seen] = {}
    turns = count()
    with ExitStack() as stack:
        for name in layers:
            if name in seen:
                continue
            module = modules.get(opened_name(name)) or modules.get(name)
            if module is None or not name:
                known = [one for one in modules if one]
                raise BadInputError(f"the {who} has no layer {name!r}{nearest(name, known)}")
            seen[name] = Seen()
            handle = module.register_forward_hook(_collector(seen[name], name, turns))
            stack.callback(handle.remove)
        yield seen


def _collector(seen: Seen, name: str, turns: Iterator[int]) -> object:
    def collect(module: nn.Module, _: object, output: object) -> None:
        found = _first_tensor(output, name)
        if found.dim() < 2:
            raise BadInputError(
                f"layer {name!r} gives shape {list(found.shape)}, which has no channels: take one "
                "that gives [N, C, ...]"
            )
        seen.last = _channels_last(found, module)
        seen.turns.append(next(turns))
        # A copy: the next layer may work in place (ReLU does), and change what was seen.
        whole = found.clone()
        seen.calls.append(whole.movedim(-1, 1) if seen.last else whole)

    return collect


def unwrapped(net: nn.Module) -> nn.Module:
    """The network itself, without what other processes or the compiler put around it."""
    found = net
    while place := _WRAPPERS.get(type(found).__name__):
        found = getattr(found, place)
    return found


def _first_tensor(output: object, name: str) -> Tensor:
    """Recurrent layers give their outputs first, and then states."""
    while isinstance(output, list | tuple) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise BadInputError(f"layer {name!r} gives no tensor but {type(output).__name__}")
    return output


def _channels_last(output: Tensor, module: nn.Module) -> bool:
    """Whether an output is [N, ..., C], as the layers inside say that make channels."""
    if output.dim() == 2:
        return False
    first = last = False
    for inner in module.modules():
        if isinstance(inner, _CHANNELS_FIRST):
            first = first or _made(inner) in {output.shape[1], None}
        elif isinstance(inner, nn.Linear | nn.LayerNorm):
            last = last or _made(inner) == output.shape[-1]
    if first or last:
        return not first
    return output.dim() == 3


def _made(layer: nn.Module) -> int | None:
    """How many channels a layer gives; `None` where it does not say."""
    for name in ("out_channels", "num_features", "num_channels", "out_features"):
        if hasattr(layer, name):
            return int(getattr(layer, name))
    return int(layer.normalized_shape[-1]) if isinstance(layer, nn.LayerNorm) else None
