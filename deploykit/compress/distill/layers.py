"""What layers of a network give on the way, by hooks that are gone afterwards."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from deploykit.compress.distill.graph_layers import opened_name
from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_CHANNELS_FIRST = (
    nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm,
    nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d,
)  # fmt: skip
"""Layers whose outputs of three dimensions are [N, C, L]; those of others are [N, L, C]."""
_WRAPPERS = {"DistributedDataParallel": "module", "OptimizedModule": "_orig_mod", "AtSize": "inner"}
"""Classes that are put around a network, and where they keep it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one layer gave in one call of the network.

    Attributes:
        calls: its output of each call, shape [n, c, ...]: channels second, whatever the layer has.
    """

    calls: list[Tensor] = field(default_factory=list)


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
    with ExitStack() as stack:
        for name in layers:
            if name in seen:
                continue
            module = modules.get(opened_name(name)) or modules.get(name)
            if module is None or not name:
                known = [one for one in modules if one]
                raise BadInputError(f"the {who} has no layer {name!r}{nearest(name, known)}")
            seen[name] = Seen()
            handle = module.register_forward_hook(_collector(seen[name], name))
            stack.callback(handle.remove)
        yield seen


def _collector(seen: Seen, name: str) -> object:
    def collect(module: nn.Module, _: object, output: object) -> None:
        # A copy: the next layer may work in place (ReLU does), and change what was seen.
        seen.calls.append(_channels_second(_first_tensor(output, name).clone(), module, name))

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


def _channels_second(output: Tensor, module: nn.Module, name: str) -> Tensor:
    if output.dim() < 2:
        raise BadInputError(
            f"layer {name!r} gives shape {list(output.shape)}, which has no channels: take one "
            "that gives [N, C, ...]"
        )
    if output.dim() == 3 and not isinstance(module, _CHANNELS_FIRST):
        return output.transpose(1, 2)
    return output
