"""Weights from files, without running what is in them.

`.safetensors` holds tensors only. `.pt` and `.pth` are pickles: they are read with
`weights_only=True` and nothing else, so that one with code in it is refused.
"""

from __future__ import annotations

import pickle
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError
from deploykit.core.extras import extra
from deploykit.core.records import writing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import nn

SUFFIXES = (".safetensors", ".pt", ".pth")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params")
_MOST_KEYS_SHOWN = 3


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by name, on the CPU.

    A checkpoint that wraps them (`{"state_dict": ...}`) is unwrapped.

    Raises:
        BadInputError: no such file, another format, cut off, or a pickle with more than tensors.
    """
    if path.suffix not in SUFFIXES:
        raise BadInputError(
            f"weights {path} must end in one of {', '.join(SUFFIXES)}, not {path.suffix!r}"
        )
    if not path.is_file():
        raise BadInputError(f"weights {path} do not exist")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def write_weights(path: Path, module: nn.Module) -> None:
    """All of a network's tensors as `.safetensors`, complete or not at all.

    Raises:
        EnvironmentFailedError: the file cannot be written.
    """
    from safetensors.torch import save

    state = {
        name: tensor.detach().cpu().contiguous().clone()  # tied ones are stored twice
        for name, tensor in module.state_dict().items()
    }
    with writing(path) as file:
        file.write(save(state))


def fit_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy the tensors into the network, all of them or none.

    The prefixes "module." of DataParallel and "_orig_mod." of torch.compile are taken off the
    names, unless the network has them itself. A tensor that the network has under two names may
    have one of them only, as `safetensors.torch.save_model` leaves it.

    Args:
        module: changed in place.
        weights: by name.
        path: of the file, for errors.

    Raises:
        BadInputError: names or shapes that do not fit; the message counts and names them.
    """
    own = module.state_dict()
    weights = _with_ties(_unprefixed(weights, own), own)
    problems = [
        _some("missing", [key for key in own if key not in weights]),
        _some("not in the network", [key for key in weights if key not in own]),
        _some(
            "of another shape",
            [
                f"{key} {list(tensor.shape)} for {list(own[key].shape)}"
                for key, tensor in weights.items()
                if key in own and tensor.shape != own[key].shape
            ],
        ),
    ]
    if any(problems):
        raise BadInputError(
            f"weights {path} do not fit the network: " + "; ".join(filter(None, problems))
        )
    module.load_state_dict(dict(weights))


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with extra("compress"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInputError(
            f"weights {path} are not safetensors, or cut off: {_line(error)}"
        ) from error
    return tensors


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    with extra("compress"):
        import torch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle's protocol help nobody
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise BadInputError(f"weights {path} {_refused(error)}") from error
    return _unwrapped(loaded, path)


def _unwrapped(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    import torch

    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict):
        raise BadInputError(f"weights {path} hold a {type(loaded).__name__}, not a state_dict")
    strange = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise BadInputError(
            f"weights {path} are not a state_dict: {_some('not tensors', strange)}; "
            "save model.state_dict()"
        )
    return {str(key): value for key, value in loaded.items()}


def _unprefixed(
    weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    for prefix in ("module.", "_orig_mod."):
        foreign = not any(key.startswith(prefix) for key in own)
        if foreign and weights and all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _with_ties(
    weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    places = {
        key: (tensor.data_ptr(), tensor.shape, tensor.stride()) for key, tensor in own.items()
    }
    there = {places[key]: key for key in own if key in weights and own[key].numel()}
    tied = {key: there[place] for key, place in places.items() if place in there}
    return {**{key: weights[other] for key, other in tied.items()}, **weights}


def _some(what: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    more = ", ..." if len(keys) > _MOST_KEYS_SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_MOST_KEYS_SHOWN])}{more})"


def _refused(error: Exception) -> str:
    """Why torch did not load a pickle, out of its long message."""
    advice = "save them with torch.save(model.state_dict(), ...) or as .safetensors"
    if not isinstance(error, pickle.UnpicklingError):
        return f"are not a PyTorch file, or cut off ({type(error).__name__}: {_line(error)})"
    words = str(error).replace("`", " ").split()
    blamed = next((after for before, after in pairwise(words) if before == "GLOBAL"), "")
    if blamed:
        return f"hold more than tensors ({blamed}), which could run code: refused; {advice}"
    return f"are no state_dict, or cut off, or could run code: refused; {advice}"


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
