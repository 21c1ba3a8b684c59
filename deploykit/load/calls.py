"""How a network is called with named inputs, and what its outputs are called.

One convention for everything that runs a PyTorch network: the eager runtime, capture for export,
and parity. Inputs whose names are all parameters of `forward` are passed by keyword; if none is,
they are passed by position, so that an input may be given a better name than `x`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, NoReturn

from deploykit.core.errors import BadInputError, DeploykitError, nearest
from deploykit.load.inputs import input_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from deploykit.core.types import TensorSpec
    from deploykit.load.data import Array

_SINGLE_OUTPUT = "output"
_LONGEST = 300  # characters of a network's own error


@dataclass(frozen=True, slots=True)
class Arguments:
    """What `module(*args, **kwargs)` gets.

    Attributes:
        args: by position.
        kwargs: by name; one of the two is empty.
    """

    args: tuple[torch.Tensor, ...]
    kwargs: dict[str, torch.Tensor]


def by_keyword(module: nn.Module, specs: Sequence[TensorSpec]) -> bool:
    """Whether the inputs are passed by keyword.

    Raises:
        BadInputError: some names are parameters of `forward` and some are not, or there are more
            inputs than `forward` takes.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL or p.kind is p.VAR_KEYWORD for p in parameters):
        named = {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
        return bool(specs) and all(spec.name in named for spec in specs)
    known = [p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY]
    strange = [spec.name for spec in specs if spec.name not in known]
    if not strange:
        return True
    if len(strange) < len(specs):
        raise BadInputError(
            f"input {strange[0]!r} is no parameter of forward({', '.join(known)})"
            f"{nearest(strange[0], known)}"
        )
    if len(specs) > len(parameters):
        raise BadInputError(
            f"{len(specs)} inputs are declared and forward({', '.join(known)}) takes "
            f"{len(parameters)}"
        )
    return False


def arguments(
    module: nn.Module, specs: Sequence[TensorSpec], feeds: Mapping[str, Array]
) -> Arguments:
    """The feeds as CPU tensors, the way that `module` takes them."""
    tensors = {spec.name: to_tensor(feeds[spec.name]) for spec in specs}
    if by_keyword(module, specs):
        return Arguments((), tensors)
    return Arguments(tuple(tensors.values()), {})


def to_tensor(array: Array) -> torch.Tensor:
    """The array as a CPU tensor on the same memory; a copy where that may not be written to."""
    import torch

    return torch.from_numpy(array if array.flags.writeable else array.copy())


def named_outputs(value: object) -> dict[str, torch.Tensor]:
    """The tensors in what a network returned, in order.

    A single tensor is "output", those of a tuple "output_0", "output_1" ..., those of a mapping
    or dataclass have their keys. `None` is left out.

    Raises:
        BadInputError: there is something else than tensors, no tensor at all, or two of one name.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in _leaves(value, ""):
        if name in found:
            raise BadInputError(f"the network returned two outputs called {name!r}: rename one")
        found[name] = tensor
    if not found:
        raise BadInputError(f"the network returned a {type(value).__name__} without any tensor")
    return found


def _leaves(value: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name or _SINGLE_OUTPUT, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}_{key}" if name else str(key))
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from _leaves(getattr(value, item.name), f"{name}_{item.name}".lstrip("_"))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name or _SINGLE_OUTPUT}_{index}")
    elif value is not None:
        raise BadInputError(
            f"the network returned a {type(value).__name__} as {name or _SINGLE_OUTPUT!r}: only "
            "tensors can be exported"
        )


def run_module(
    module: nn.Module, specs: Sequence[TensorSpec], feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """Run the network eagerly on host arrays, without gradients.

    Args:
        module: in the mode that it shall be run in.
        specs: its inputs.
        feeds: arrays by input name.

    Returns:
        Arrays by output name, in order.

    Raises:
        BadInputError: the network raises an error, or gives what is no tensor.
    """
    import torch

    # Copies: a network that changes its input in place must not change the next one's.
    call = arguments(module, specs, {name: array.copy() for name, array in feeds.items()})
    try:
        with torch.inference_mode():
            outputs = named_outputs(module(*call.args, **call.kwargs))
    except Exception as error:  # noqa: BLE001  (users' code raises what it likes)
        refuse_call(error, specs)
    return {name: to_array(tensor) for name, tensor in outputs.items()}


def refuse_call(error: Exception, specs: Sequence[TensorSpec]) -> NoReturn:
    """Raise what stands for an error from inside a network that was called with such inputs.

    Raises:
        BadInputError: the network's own words, in one line.
        Exception: `error` itself where it is ours, or says that memory ran out.
    """
    said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    if isinstance(error, DeploykitError | MemoryError) or "memory" in said:
        raise error
    declared = ", ".join(input_text(spec) for spec in specs)
    raise BadInputError(
        f"the network does not run on {declared}: {said[:_LONGEST]}; declare what it takes with "
        "--input"
    ) from error


def to_array(tensor: torch.Tensor) -> Array:
    """The tensor on the host; bfloat16, which NumPy lacks, as float32."""
    import torch

    plain = tensor.detach().cpu()
    array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return array
