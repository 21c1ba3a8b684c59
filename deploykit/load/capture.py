"""Model -> exported program: `torch.export` with the dynamic dimensions that were declared."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from deploykit.core.errors import BadInputError, DeploykitError
from deploykit.core.types import Dim
from deploykit.load.calls import arguments, by_keyword
from deploykit.load.data import shape_text
from deploykit.load.quiet import quiet_torch
from deploykit.load.recurrent import shapes_only
from deploykit.load.synthetic import dims_of, synthetic_feeds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.export import ExportedProgram

    from deploykit.core.types import Model, TensorSpec
    from deploykit.load.data import Array

_LEAST_EXAMPLE = 2  # torch.export takes sizes 0 and 1 for constants
_SEED = 0
_BY_VALUE = "data-dependent"  # in torch's message where Python branches on what a tensor holds


def capture(model: Model, example: Mapping[str, Array] | None = None) -> ExportedProgram:
    """The network as a graph of ATen operators, its declared dimensions dynamic.

    Args:
        model: its module is not changed.
        example: one batch of inputs, with dynamic sizes of 2 or more; made up where not given.

    Raises:
        BadInputError: `torch.export` cannot capture the network, or not with these dimensions
            dynamic; the message has torch's reason and the place in the user's code.
    """
    import torch

    feeds = example or synthetic_feeds(model.inputs, example_sizes(model.inputs), _SEED)
    call = arguments(model.module, model.inputs, feeds)
    shapes = _dynamic_shapes(model)
    try:
        with torch.no_grad(), quiet_torch(), shapes_only():
            return torch.export.export(
                model.module, call.args, call.kwargs, dynamic_shapes=shapes, strict=False
            )
    except DeploykitError:
        raise
    except Exception as error:
        raise BadInputError(_explain(error, model.inputs)) from error


def example_sizes(specs: Sequence[TensorSpec]) -> dict[str, int]:
    """A size for each dynamic dimension that is unlike every other size.

    Equal sizes would look like one dimension to the capture, and 0 and 1 like constants.
    """
    taken = {size for spec in specs for size in spec.shape if isinstance(size, int)}
    sizes: dict[str, int] = {}
    for name, dim in dims_of(specs).items():
        candidates = range(dim.low, _highest(dim) + 1, dim.step)
        good = (s for s in candidates if s // dim.step >= _LEAST_EXAMPLE and s not in taken)
        sizes[name] = next(good, candidates[-1])
        taken.add(sizes[name])
    return sizes


def _highest(dim: Dim) -> int:
    return dim.low + 64 * dim.step if dim.high is None else dim.high


def _dynamic_shapes(model: Model) -> dict[str, dict[int, object]] | tuple[object, ...]:
    """In the structure that the module takes its inputs in, as torch.export wants it."""
    symbols = {name: _symbol(dim) for name, dim in dims_of(model.inputs).items()}
    by_input = {
        spec.name: {
            axis: symbols[size.name]
            for axis, size in enumerate(spec.shape)
            if isinstance(size, Dim) and symbols[size.name] is not None
        }
        for spec in model.inputs
    }
    if by_keyword(model.module, model.inputs):
        return by_input
    # What `*args` takes is one parameter to torch.export, with a tuple of shapes.
    kinds = [p.kind for p in inspect.signature(model.module.forward).parameters.values()]
    shapes = tuple(by_input.values())
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    plain = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:plain], shapes[plain:])


def _symbol(dim: Dim) -> object:
    """What `torch.export` calls the dimension; `None` where its range has one size only."""
    from torch.export import Dim as Symbol

    if dim.high == dim.low:
        return None
    if dim.step == 1:
        return Symbol(dim.name, min=dim.low, max=dim.high)
    high = None if dim.high is None else dim.high // dim.step
    return dim.step * Symbol(f"_{dim.name}", min=max(1, dim.low // dim.step), max=high)


def _explain(error: Exception, specs: Sequence[TensorSpec]) -> str:
    text = str(error)
    declared = ", ".join(f"{spec.name}={shape_text(spec)}" for spec in specs)
    fixes = re.search(r"Suggested fixes:\s*(.+?)(?:\n\n|\Z)", text, re.DOTALL)
    if "onstraints violated" in text or "dynamic dimensions" in text:
        found = re.findall(r"^\s*- (.+?)(?: If you're .*)?$", text, re.MULTILINE)
        reason = " ".join(found) or _line(text)
        advice = f"; torch suggests {' '.join(fixes[1].split())}" if fixes else ""
        return (
            f"torch.export cannot keep {declared} dynamic: {reason[:300]}{advice}; declare that "
            "size fixed, or with a narrower range or a step"
        )
    reason = f"{type(error).__name__}: {_line(text)}{_place(error)}"
    # `if x.sum() > 0:` has no graph.
    advice = "; choose by value with torch.where, or torch.cond" if _BY_VALUE in text else ""
    return f"torch.export cannot capture the network: {reason}{advice}"


def _line(text: str) -> str:
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    return lines[0][:300] if lines else "no reason given"


def _place(error: Exception) -> str:
    """Where in code outside torch the capture stopped."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        outside = "/torch/" not in code.co_filename and "deploykit/" not in code.co_filename
        if outside and "<" not in code.co_filename:
            place = f" ({code.co_filename.rsplit('/', 1)[-1]}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place
