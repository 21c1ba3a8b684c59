"""Make a `torch.nn.Module` from a source. The one file of this room that runs users' code."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deploykit.core.errors import BadInputError, DeploykitError, MissingExtraError, nearest
from deploykit.core.extras import extra
from deploykit.core.records import sha256_of
from deploykit.core.types import Dim, Model, Step, TensorSpec
from deploykit.load.inputs import input_text
from deploykit.load.weights import fit_weights, read_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from torch import nn
    from torch.export import ExportedProgram

    from deploykit.core.types import Option
    from deploykit.load.sources import Source

T = TypeVar("T")
_UNBOUNDED = 1 << 31
_ZOO_BATCH = Dim("N", 1, 64)
_TORCHVISION_SIZE = (3, 224, 224)
_VERSIONED = ("torch", "timm", "torchvision")


def load_module(source: Source) -> Model:
    """Build the network of a resolved source; see `deploykit.load.sources.load_source`."""
    with extra("compress"):
        import torch

    if source.text.endswith(".pt2"):
        module, inputs = _exported_program(source)
    else:
        module, inputs = _built(source)
    if not isinstance(module, torch.nn.Module):
        raise BadInputError(f"{source.text} gave a {type(module).__name__}, not a torch.nn.Module")
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
    if place in {"timm", "torchvision"}:
        return _zoo(place, name, source)
    imported = _import_file(source, place) if place.endswith(".py") else _import_package(place)
    build = imported
    for part in name.split("."):
        if not hasattr(build, part):
            raise BadInputError(f"{place} has no {name!r}{nearest(part, _public(build))}")
        build = getattr(build, part)
    if not callable(build) or _is_module(build):
        return build, ()
    return _call(build, source.options, source.text), ()


def _is_module(value: object) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)


def _public(value: object) -> list[str]:
    return [name for name in dir(value) if not name.startswith("_")]


def _import_file(source: Source, place: str) -> ModuleType:
    path = (source.base / place).resolve()
    if not path.is_file():
        raise BadInputError(f"{source.base / place} does not exist")
    # A name of its own, so that two files called net.py can be loaded side by side.
    name = f"deploykit_source_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # As `python net.py` would have it, so that the file can import its neighbours.
    sys.path.insert(0, str(path.parent))
    try:
        _running(lambda: spec.loader.exec_module(module), str(source.base / place))  # type: ignore[union-attr]
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def _import_package(place: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise BadInputError(
            f"no module is called {place!r}: install its package, or give the file as "
            f"path/{place.replace('.', '/')}.py:NAME"
        )
    return _running(lambda: importlib.import_module(place), place)


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
    program = _running(lambda: torch.export.load(path), str(path))
    names = set(program.graph_signature.user_inputs)
    ranges = {str(symbol): limits for symbol, limits in program.range_constraints.items()}
    specs = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in names and isinstance(value, torch.Tensor):
            sizes = tuple(_size(size, ranges) for size in value.shape)
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


def _size(size: object, ranges: Mapping[str, object]) -> int | Dim:
    if isinstance(size, int):
        return size
    limits = ranges.get(str(size))
    low = int(getattr(limits, "lower", 1))
    try:
        high = int(getattr(limits, "upper", _UNBOUNDED))
    except (TypeError, ValueError, OverflowError):  # sympy's infinity
        high = _UNBOUNDED
    return Dim(str(size), max(1, low), high if high < _UNBOUNDED else None)


def _call(build: Callable[..., object], options: Mapping[str, Option], text: str) -> object:
    return _running(lambda: build(**options), text)


def _running(work: Callable[[], T], text: str) -> T:
    """Run users' code: whatever it raises becomes one line with its own message and place."""
    try:
        return work()
    except DeploykitError:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{text} needs {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except SyntaxError as error:
        place = f"{Path(error.filename or text).name}, line {error.lineno}"
        raise BadInputError(f"{text} is not Python: {error.msg} ({place})") from error
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = str(error).strip().split("\n")[0]
        raise BadInputError(
            f"{text} failed with {type(error).__name__}: {message} "
            f"({Path(last.filename).name}, line {last.lineno})"
        ) from error


def _code_digest(source: Source) -> str:
    """SHA-256 of every imported file from outside installed packages: the user's own code.

    Installed packages are covered by their versions, and deploykit (which may be installed in
    place) by its own; its networks count as users' code, since they end up in the artifact.
    """
    kinds = ("stdlib", "purelib", "platlib")
    installed = [Path(sysconfig.get_path(kind)).resolve() for kind in kinds]
    digest = hashlib.sha256()
    files = {
        getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        if _is_users(name)
    }
    paths = {Path(file).resolve() for file in files if file and Path(file).is_file()}
    place = source.base / source.text.rpartition(":")[0]
    if place.suffix == ".py":
        paths.add(place.resolve())
    for path in sorted(paths, key=lambda path: (path.name, str(path))):
        if path.suffix == ".py" and not any(path.is_relative_to(root) for root in installed):
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _is_users(name: str) -> bool:
    top, _, rest = name.partition(".")
    return name != "__main__" and (top != "deploykit" or rest.startswith("nets"))


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONED if name in sys.modules}
