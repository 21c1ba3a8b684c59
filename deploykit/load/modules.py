"""Make a `torch.nn.Module` from a source. The one file of this room that runs users' code."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, nearest
from deploykit.core.extras import extra
from deploykit.core.records import sha256_of
from deploykit.core.types import Dim, Model, Step, TensorSpec
from deploykit.load.imports import (
    PREFIX,
    import_place,
    is_installed,
    member,
    neighbours,
    running,
)
from deploykit.load.inputs import input_text
from deploykit.load.sources import ZOOS, resolve
from deploykit.load.weights import fit_weights, read_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn
    from torch.export import ExportedProgram

    from deploykit.core.types import Option
    from deploykit.load.sources import Source

_UNBOUNDED = 1 << 31
_ZOO_BATCH = Dim("N", 1, 64)
_TORCHVISION_SIZE = (3, 224, 224)
_VERSIONED = ("torch", *ZOOS)


def load_source(source: Source) -> Model:
    """The network in memory, in evaluation mode, with its weights.

    Raises:
        BadInputError: the source is of no known form, cannot be imported (its own message is
            given), is no network, its weights do not fit, its inputs are not declared, or it takes
            a plan to build (see `deploykit.flow.rebuild`).
        MissingExtraError: torch, timm or torchvision is not installed.
    """
    source = resolve(source)
    if source.plans:
        place = source.plans[-1].parent
        raise BadInputError(
            f"{place} is a network that takes a plan to build: name its artifact, which deploykit "
            f"export {place} makes"
        )
    if source.weights is not None and not source.weights.is_file():
        hint = f"; train them: deploykit train {source.base}" if source.base != Path() else ""
        raise BadInputError(f"weights {source.weights} do not exist{hint}")
    with extra("compress"):
        import torch

    if source.text.endswith(".pt2"):
        module, inputs = _exported_program(source)
    else:
        module, inputs = _built(source)
    if not isinstance(module, torch.nn.Module):
        raise BadInputError(f"{source.text} gave a {type(module).__name__}, not a torch.nn.Module")
    _check_made(module, source.text)
    digests = {"code": _code_digest(source)}
    if source.weights is not None:
        fit_weights(module, read_weights(source.weights), source.weights)
        digests["weights_file"] = sha256_of(source.weights)
    inputs = source.inputs or inputs
    if not inputs:
        raise BadInputError(
            f'{source.text}: its inputs are not declared; add --input "x=N[1..64]x3x224x224"'
        )
    if not source.text.endswith(".pt2"):  # an exported program is in the mode it was exported in
        module.eval()
    digests["state"] = state_digest(module)
    step = Step(
        name="load",
        options={
            # Never a path of this machine: the name is for people, the digests for machines.
            "source": Path(source.text).name,
            "inputs": tuple(input_text(spec) for spec in inputs),
            **{f"option.{key}": value for key, value in source.options.items()},
        },
        input_digests=digests,
        versions=_versions(),
    )
    return Model(module=module, inputs=inputs, io=source.io, history=(step,))


def _check_made(module: nn.Module, text: str) -> None:
    """Refuse a network whose weights have no values yet."""
    from torch.nn.parameter import is_lazy

    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise BadInputError(
                f"{text}: {name} is lazy and has no shape yet; run the network once before it is "
                "returned"
            )
        if tensor.is_meta:
            raise BadInputError(
                f"{text}: {name} is on the meta device and has no values; build it on the CPU"
            )


def state_digest(module: nn.Module) -> str:
    """SHA-256, in hex, of all parameters and buffers with their names, types and shapes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _built(source: Source) -> tuple[object, tuple[TensorSpec, ...]]:
    place, _, name = source.text.rpartition(":")
    if place in ZOOS:
        return _zoo(place, name, source)
    with neighbours(place, source.base):
        build = member(import_place(place, source.base), name, place)
        if callable(build) and not _is_module(build):
            return _call(build, source.options, source.text), ()
    if source.options:
        raise BadInputError(
            f"{source.text} is a network already and takes no options: {', '.join(source.options)}"
        )
    return build, ()


def _is_module(value: object) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)


def _zoo(package: str, name: str, source: Source) -> tuple[object, tuple[TensorSpec, ...]]:
    with extra(f"package:{package}"):
        importlib.import_module(package)
    if package == "timm":
        return _timm(name, source)
    models = importlib.import_module("torchvision.models")
    known: list[str] = models.list_models()
    if name not in known:
        raise BadInputError(f"torchvision has no model {name!r}{nearest(name, known)}")
    module = _call(models.get_model, {"name": name, "weights": None, **source.options}, source.text)
    return module, (TensorSpec("x", "float32", (_ZOO_BATCH, *_TORCHVISION_SIZE)),)


def _timm(name: str, source: Source) -> tuple[object, tuple[TensorSpec, ...]]:
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise BadInputError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    options = {"model_name": name, "pretrained": False, "exportable": True, **source.options}
    module = _call(timm.create_model, options, source.text)
    config = getattr(module, "default_cfg", None) or {}
    size = tuple(config.get("input_size") or _TORCHVISION_SIZE)
    return module, (TensorSpec("x", "float32", (_ZOO_BATCH, *size)),)


def _exported_program(source: Source) -> tuple[object, tuple[TensorSpec, ...]]:
    import torch

    path = source.base / source.text
    if not source.trust:
        raise BadInputError(
            f"{path}: loading a .pt2 file can run code in it; add --trust if you know its maker"
        )
    if not path.is_file():
        raise BadInputError(f"{path} does not exist")
    program = running(lambda: torch.export.load(path), str(path))
    names = set(program.graph_signature.user_inputs)
    ranges = {str(symbol): limits for symbol, limits in program.range_constraints.items()}
    specs: list[TensorSpec] = []
    names_of: dict[str, str] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in names and isinstance(value, torch.Tensor):
            sizes = tuple(_size(size, ranges, names_of) for size in value.shape)
            dtype = str(value.dtype).removeprefix("torch.")
            specs.append(TensorSpec(node.name, dtype, sizes))
    return _flat_module(program), tuple(specs)


def _flat_module(program: ExportedProgram) -> nn.Module:
    """The program's module, called with its tensors by position however it took them."""
    import torch
    from torch.utils import _pytree

    structure = program.call_spec.in_spec

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program.module()

        def forward(self, *inputs: torch.Tensor) -> object:
            args, kwargs = _pytree.tree_unflatten(inputs, structure)
            return self.program(*args, **kwargs)

    return Flat()


def _size(size: object, ranges: Mapping[str, object], names: dict[str, str]) -> int | Dim:
    """A size of an exported program; its symbols, "s31" and the like, become N, D1, D2 ..."""
    if isinstance(size, int):
        return size
    name = names.setdefault(str(size), f"D{len(names)}" if names else "N")
    limits = ranges.get(str(size))
    low = int(getattr(limits, "lower", 1))
    try:
        high = int(getattr(limits, "upper", _UNBOUNDED))
    except (TypeError, ValueError, OverflowError):  # sympy's infinity
        high = _UNBOUNDED
    return Dim(name, max(1, low), high if high < _UNBOUNDED else None)


def _call(build: Callable[..., object], options: Mapping[str, Option], text: str) -> object:
    if missing := _missing(build, options):
        raise BadInputError(
            f"{text} cannot be called without {', '.join(missing)}: give it a default, or a value "
            "under [source.options] in a recipe"
        )
    return running(lambda: build(**options), text)


def _missing(build: Callable[..., object], options: Mapping[str, Option]) -> list[str]:
    """Parameters without a default for which there is no option."""
    try:
        parameters = tuple(inspect.signature(build).parameters.values())
    except (TypeError, ValueError):  # not everything that can be called says what it takes
        return []
    plain = (p for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD})
    return [p.name for p in plain if p.default is p.empty and p.name not in options]


def _code_digest(source: Source) -> str:
    """SHA-256 of every imported file from outside installed packages: the user's own code.

    Installed packages are covered by their versions, and deploykit (which may be installed in
    place) by its own; its networks count as users' code, since they end up in the artifact.
    """
    files = {
        getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        if _is_users(name)
    }
    near = (Path(file) for file in files if file)
    paths = {path.resolve() for path in near if not is_installed(path) and path.is_file()}
    place = source.base / source.text.rpartition(":")[0]
    if place.suffix == ".py":
        paths.add(place.resolve())
    own = (path for path in paths if path.suffix == ".py" and not is_installed(path))
    lines = sorted(f"{path.name} {sha256_of(path)}\n" for path in own)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_users(name: str) -> bool:
    top, _, rest = name.partition(".")
    if name == "__main__" or name.startswith(PREFIX):  # other sources, data and metrics
        return False
    return top != "deploykit" or rest.startswith("nets")


def _versions() -> dict[str, str]:
    loaded = {name: sys.modules.get(name) for name in _VERSIONED}
    return {name: str(module.__version__) for name, module in loaded.items() if module is not None}
